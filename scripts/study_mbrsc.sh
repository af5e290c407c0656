#!/usr/bin/env bash
# The study of docs/results.md as commands: how many labels does pretraining save on MBRSC Dubai?
#
# usage: scripts/study_mbrsc.sh DATA WEIGHTS STAGE ...
#   DATA     folder with 'Tile 1' to 'Tile 8'
#   WEIGHTS  torchvision's mobilenet_v2-b0353104.pth
#   STAGE    pretrain   for each of SEEDS an encoder by the three tasks together, from the training images without labels
#            choose     three learning rates for each initialization, 10 % of the labels, 2,000 steps, scored on validation
#                       parts; for random initialization, whose best rate depends on them, also more labels and steps
#            batch      batches of 32 crops instead of 8: random initialization, all labels, seed 0, scored on validation parts
#            augmentation   what fine-tuning does to its crops: all, flips and rotations, nothing; random initialization, 10 % and
#                       all labels, 2,000 steps, and nothing for 4,000, scored on validation parts
#            compare    the three initializations at FRACTIONS, seeds SEEDS, scored on the test parts
#            scenes     the three initializations with 10 % of the scenes labeled whole, instead of 10 % of the tiles
#            imagenet_first   pretraining that starts from ImageNet, its encoder at a tenth of the rate, then 2 and 10 %
#                             of the tiles and 10 % of the scenes
#            longer     three times the pretraining (seed 0), then 2 % of the tiles and 10 % of the scenes
#            heads      the head that tells the transform, and the paper's, each alone
#            levers     each of LEVERS, one change at a time to the three tasks (pretraining of seed 0): FRACTIONS of the tiles, by
#                       default 2 %, seeds 0 and 1, scored on validation parts; beside them random initialization and the tasks as they are
#            probe      kNN and linear probes of frozen encoders, the longer pretraining's too, on validation parts
#            others     each of METHODS: pretraining, kNN probe on validation parts, then 10 % of the scenes; seeds SEEDS
#            others_tiles   after others, with its METHODS and SEEDS: 10 % of the tiles
#            converged  random initialization with all labels and twice STEPS
#            report     all finished cells as tables and a page
#            keep       copy each finished result.json to docs/results/as_cut/, with AUGMENTATION=default to docs/results/, with
#                       PRECISION=bf16 to docs/results/as_cut_bf16/ or default_bf16/
#   PYTHON     default python
#   OUT        default outputs/study
#   FRACTIONS  default 2pct,10pct,100pct
#   STEPS      of fine-tuning, where no stage says otherwise; default 2800
#   BATCH      crops a step of fine-tuning, default 32
#   DECAY      weight decay of fine-tuning, default 0.05
#   AUGMENTATION default none: the crops as they are; or flip_rotate; or default: flips, rotations, scale and color
#              Most rows of docs/results.md were run with AUGMENTATION=default BATCH=8 STEPS=4000.
#   DOWNSAMPLE default 2: half the files' resolution; kept are also 4 and 8, a quarter and an eighth of it
#   PRECISION  default fp32, as in most kept results; bf16 is quicker on cores that compute in it, and rounds otherwise
#   SEEDS      default "0 1 2"
#   LEVERS     what levers tries, e.g. "random as_it_is per_view"; by default all
#   METHODS    what others pretrains with, e.g. "byol inpainting,contrastive"; by default each of the paper's tasks alone,
#              each pair, each published method
#
# Everything can be started again: what is finished is skipped. Stages may run side by side, one thread each.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,/^set /p' "$0" | grep '^#' | cut -c3- >&2
  exit 2
fi
data=$1 weights=$2
shift 2
python=${PYTHON:-python} out=${OUT:-outputs/study} steps=${STEPS:-2800} batch=${BATCH:-32} downsample=${DOWNSAMPLE:-2}
augmentation=${AUGMENTATION:-none} precision=${PRECISION:-fp32} decay=${DECAY:-0.05} seeds=${SEEDS:-0 1 2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
[ "$downsample" = 2 ] || out=$out/downsample$downsample   # other images, other encoders
[ "$precision" = fp32 ] || out=$out/$precision             # other encoders
common=("dataset.root=$data" "output_dir=$out" logger=none "trainer.precision=$precision" "dataset.downsample=$downsample")
methods="inpainting transform_prediction contrastive inpainting,transform_prediction inpainting,contrastive
  transform_prediction,contrastive simclr moco_v2 byol vicreg dense_contrastive"
tasks=inpainting+transform_prediction+contrastive
declare -A rate=([random]=3e-3 [imagenet]=1e-3 [pretrained]=3e-3)   # learning rates, chosen from these:
declare -A grid=([random]="1e-3 3e-3 1e-2" [imagenet]="3e-4 1e-3 3e-3" [pretrained]="3e-4 1e-3 3e-3")

fine_tune() {   # what comes later on a line goes before
  "$python" -m ssl_rs.finetune -m experiment=mbrsc_finetune "${common[@]}" "augmentation=$augmentation" \
    "trainer.batch_size=$batch" "trainer.max_steps=$steps" "optimizer.weight_decay=$decay" "$@"
}

pretrain() { "$python" -m ssl_rs.pretrain -m experiment=mbrsc_pretrain "${common[@]}" "$@"; }
from_imagenet=(initialization=imagenet "initialization.weights=$weights")

# The folder of the finished pretraining that started from $1 (random or imagenet), with seed $2, $3 steps and the tasks
# $4, by default the three together.
pretraining() {
  "$python" - "$out/pretrain/mbrsc/mobilenet_v2/${4:-$tasks}" "${@:1:3}" <<'PYTHON'
import json, pathlib, sys
folder, *wanted = sys.argv[1:]
for path in sorted(pathlib.Path(folder).glob("*/result.json")):
    result = json.loads(path.read_text())
    if [result["initialization"], str(result["seed"]), str(result["steps"])] == wanted:
        sys.exit(print(path.parent))
sys.exit(f"no finished pretraining from {wanted[0]}, seed {wanted[1]}, {wanted[2]} steps, under {folder}")
PYTHON
}

# Where an initialization starts; each seed of fine-tuning has a pretraining of its own.
start() {
  local run
  case $1 in
    random) echo initialization=random ;;
    imagenet) echo "${from_imagenet[@]}" ;;
    pretrained) run=$(pretraining random "$2" 1500) && echo initialization=pretrained "initialization.run=$run" ;;
  esac
}

# Fine-tune the three initializations with each of SEEDS and the learning rate of each.
compare() {
  local seed name given
  for seed in $seeds; do
    for name in random imagenet pretrained; do
      given=$(start $name $seed)
      # shellcheck disable=SC2086
      fine_tune $given "optimizer.lr=${rate[$name]}" "seed=$seed" "$@"
    done
  done
}

# Score a frozen encoder with labels of the share $1 and a probe $2 on validation parts.
probe() {
  "$python" -m ssl_rs.evaluate "label_fraction=$1" "probe=$2" dataset=mbrsc "dataset.root=$data" "output_dir=$out" \
    "trainer.precision=$precision" "dataset.downsample=$downsample" dataset.crop_size=64 'dataset.val_parts=[8]' \
    evaluation.split=val "${@:3}"
}

# What each lever changes: the pretraining by the three tasks, or how its weights are fine-tuned.
levers="inpainting_30 decoder_transfer per_view batch_64 blocks_12 temperature_0.1 temperature_0.5 dense gentle_encoder
  gentle_color masked masked_unet"
declare -A lever_pretraining=(
  [inpainting_30]="pretext.inpainting.weight=30"
  [decoder_transfer]="pretext=[inpainting_unet,transform_prediction,contrastive]
    pretext.inpainting.task.decoder.model.decoder_channels=[64,48,32,16,8]"
  [per_view]="encoder_pass=per_view"
  [batch_64]="trainer.batch_size=64 trainer.max_steps=750"   # as many images as without
  [blocks_12]="views.corrupted.num_blocks=12"
  [temperature_0.1]="pretext.contrastive.task.temperature=0.1"
  [temperature_0.5]="pretext.contrastive.task.temperature=0.5"
  [dense]="pretext=[inpainting,transform_prediction,contrastive,dense_contrastive]"
  [gentle_color]="views.transformed.color.hue=[-0.05,0.05] views.transformed.color.saturation=[0.8,1.2]
    views.transformed.color.grayscale=0.1"
  [masked]="views=[clean,transformed,masked]"
  [masked_unet]="pretext=[inpainting_unet] views=[clean,masked]
    pretext.inpainting.task.decoder.model.decoder_channels=[64,48,32,16,8]"   # masked image modeling alone
)
declare -A lever_fine_tuning=(
  [decoder_transfer]="initialization.parts=encoder_and_decoder"
  [masked_unet]="initialization.parts=encoder_and_decoder"
  [gentle_encoder]="trainer.encoder_lr_factor=0.1"
)

# Pull the lever $1; random is initialization without pretraining, as_it_is the pretraining without any lever.
lever() {
  local start=(initialization=random) run
  if [ "$1" != random ]; then
    if [ -n "${lever_pretraining[$1]:-}" ]; then
      run=$out/pretrain/levers/$1
      # shellcheck disable=SC2086
      "$python" -m ssl_rs.pretrain experiment=mbrsc_pretrain "${common[@]}" seed=0 "run_dir=$run" ${lever_pretraining[$1]}
    else
      run=$(pretraining random 0 1500)
    fi
    start=(initialization=pretrained "initialization.run=$run")
  fi
  # shellcheck disable=SC2086
  fine_tune "${start[@]}" "${on_validation[@]}" seed=0,1 "initialization.label=lever $1" optimizer.lr=3e-3 \
    "label_fraction=${FRACTIONS:-2pct}" ${lever_fine_tuning[$1]:-}
}

on_validation=('dataset.val_parts=[8]' evaluation.split=val)
for stage in "$@"; do
  case $stage in
    pretrain) pretrain "seed=${seeds// /,}" ;;
    choose)
      for name in random imagenet pretrained; do
        for lr in ${grid[$name]}; do
          given=$(start $name 0)
          # shellcheck disable=SC2086
          fine_tune $given "${on_validation[@]}" seed=0 "initialization.label=${name}_$lr" optimizer.lr=$lr \
            label_fraction=10pct trainer.max_steps=2000
        done
      done
      for lr in 1e-3 3e-3; do
        fine_tune "${on_validation[@]}" seed=0 "initialization.label=random_$lr" optimizer.lr=$lr label_fraction=10pct,100pct
      done
      fine_tune "${on_validation[@]}" seed=0 initialization.label=random_3e-3_8000 optimizer.lr=3e-3 trainer.max_steps=8000 ;;
    batch)
      given=("${on_validation[@]}" seed=0 initialization=random trainer.batch_size=32)
      fine_tune "${given[@]}" initialization.label=rs_b32_700 optimizer.lr=3e-3 trainer.max_steps=700
      fine_tune "${given[@]}" initialization.label=rs_b32_700_lr10 optimizer.lr=1e-2 trainer.max_steps=700
      fine_tune "${given[@]}" initialization.label=rs_b32_1400 optimizer.lr=3e-3 trainer.max_steps=1400 ;;
    augmentation)
      given=("${on_validation[@]}" seed=0 optimizer.lr=3e-3)
      short=(label_fraction=10pct,100pct trainer.max_steps=2000)
      for pair in base:default geometry:flip_rotate no_augmentation:none; do   # label of the row : option
        augmentation=${pair#*:} fine_tune "${given[@]}" "${short[@]}" "initialization.label=${pair%:*}"
      done
      augmentation=none fine_tune "${given[@]}" initialization.label=no_augmentation_4000 trainer.max_steps=4000 ;;
    compare) compare "label_fraction=${FRACTIONS:-2pct,10pct,100pct}" ;;
    scenes) compare label_fraction=10pct label_fraction.unit=scene ;;
    imagenet_first)
      pretrain "${from_imagenet[@]}" trainer.encoder_lr_factor=0.1 seed=0,1,2
      for seed in 0 1 2; do
        run=$(pretraining imagenet $seed 1500)
        fine_tune initialization=pretrained "initialization.run=$run" "optimizer.lr=${rate[imagenet]}" "seed=$seed" \
          label_fraction=2pct,10pct
        fine_tune initialization=pretrained "initialization.run=$run" "optimizer.lr=${rate[imagenet]}" "seed=$seed" \
          label_fraction=10pct label_fraction.unit=scene
      done ;;
    longer)
      pretrain trainer.max_steps=4500 seed=0
      run=$(pretraining random 0 4500)
      longer=(initialization=pretrained "initialization.run=$run" 'initialization.label=three tasks for 4500 steps')
      fine_tune "${longer[@]}" "optimizer.lr=${rate[pretrained]}" seed=0 label_fraction=2pct
      fine_tune "${longer[@]}" "optimizer.lr=${rate[pretrained]}" seed=0 label_fraction=10pct label_fraction.unit=scene ;;
    heads) pretrain seed=0 'pretext=[transform_prediction],[transform_prediction_pooled]' ;;
    levers) for name in ${LEVERS:-random as_it_is $levers}; do lever "$name"; done ;;
    probe)
      encoders=(random imagenet "$(pretraining random 0 1500)")
      run=$(pretraining random 0 4500 2>/dev/null) && encoders+=("$run")   # where it was run
      for encoder in "${encoders[@]}"; do
        given=("encoder=$encoder")
        [ "$encoder" = random ] || [ "$encoder" = imagenet ] && given+=(backbone=mobilenet_v2)
        [ "$encoder" = imagenet ] && given+=("encoder_weights=$weights")
        [ "$encoder" = "$run" ] && given+=('label=three tasks for 4500 steps')
        for share in 2pct 10pct; do
          for kind in knn linear; do probe "$share" "$kind" "${given[@]}"; done
        done
      done ;;
    others | others_tiles)
      for seed in $seeds; do
        for names in ${METHODS:-$methods}; do
          if [ "$stage" = others ]; then
            pretrain "pretext=[$names]" "seed=$seed"
            run=$(pretraining random "$seed" 1500 "${names//,/+}")
            for share in 2pct 10pct; do probe "$share" knn "encoder=$run" "seed=$seed"; done
            unit=scene
          else
            run=$(pretraining random "$seed" 1500 "${names//,/+}")
            unit=tile
          fi
          fine_tune initialization=pretrained "initialization.run=$run" "optimizer.lr=${rate[pretrained]}" "seed=$seed" \
            label_fraction=10pct "label_fraction.unit=$unit"
        done
      done ;;
    converged) fine_tune initialization=random "optimizer.lr=${rate[random]}" seed=0,1,2 "trainer.max_steps=$((2 * steps))" ;;
    report) "$python" -m ssl_rs.report "output_dir=$out" ;;
    keep)
      kept=$(cd "$(dirname "$0")/.." && pwd)/docs/results
      [ "$augmentation" = none ] && kept=$kept/as_cut
      if [ "$precision" != fp32 ]; then kept=${kept/%results/results/default}_$precision; fi
      mkdir -p "$kept"
      for kind in pretrain finetune evaluate; do
        if [ -d "$out/$kind" ]; then (cd "$out" && find "$kind" -name result.json -exec cp --parents -t "$kept" {} +); fi
      done
      # Where this machine has its files means nothing elsewhere.
      find "$kept" -name result.json -exec sed -i "s|\"$out/|\"outputs/study/|; s|=$out|=outputs/study|; s|=$data|=DATA|; s|=$weights|=WEIGHTS|" {} + ;;
    *) echo "unknown stage $stage" >&2; exit 2 ;;
  esac
done
