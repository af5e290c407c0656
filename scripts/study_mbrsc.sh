#!/usr/bin/env bash
# The study of docs/results.md as commands: how many labels does pretraining save on MBRSC Dubai?
#
# usage: scripts/study_mbrsc.sh DATA WEIGHTS STAGE ...
#   DATA     folder with 'Tile 1' to 'Tile 8'
#   WEIGHTS  torchvision's mobilenet_v2-b0353104.pth
#   STAGE    pretrain   three encoders by the three tasks together, from the training images without their labels
#            choose     three learning rates for each initialization, 10 % of the labels, 2,000 steps, scored on validation
#                       parts; for random initialization, whose best rate depends on them, also more labels and steps
#            compare    the three initializations at FRACTIONS, three seeds, scored on the test parts
#            converged  random initialization with all labels and twice the steps
#            report     all finished cells as tables and a page
#            keep       copy each finished result.json to docs/results/
#   PYTHON     default python
#   OUT        default outputs/study
#   FRACTIONS  default 2pct,10pct,100pct
#
# Everything can be started again: what is finished is skipped. Stages may run side by side, one thread each.
set -euo pipefail
data=$1 weights=$2
shift 2
python=${PYTHON:-python} out=${OUT:-outputs/study}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
common=("dataset.root=$data" "output_dir=$out" logger=none)
tasks=inpainting+transform_prediction+contrastive
declare -A rate=([random]=3e-3 [imagenet]=1e-3 [pretrained]=3e-3)   # learning rates, chosen from these:
declare -A grid=([random]="1e-3 3e-3 1e-2" [imagenet]="3e-4 1e-3 3e-3" [pretrained]="3e-4 1e-3 3e-3")

fine_tune() { "$python" -m ssl_rs.finetune -m experiment=mbrsc_finetune "${common[@]}" "$@"; }

# Where an initialization starts; each seed of fine-tuning has a pretraining of its own.
start() {
  case $1 in
    random) echo initialization=random ;;
    imagenet) echo initialization=imagenet "initialization.weights=$weights" ;;
    pretrained) echo initialization=pretrained "initialization.run=$tasks/seed$2-*" ;;
  esac
}

for stage in "$@"; do
  case $stage in
    pretrain) "$python" -m ssl_rs.pretrain -m experiment=mbrsc_pretrain "${common[@]}" seed=0,1,2 ;;
    choose)
      on_validation=(seed=0 'dataset.val_parts=[8]' evaluation.split=val)
      for name in random imagenet pretrained; do
        for lr in ${grid[$name]}; do
          # shellcheck disable=SC2046
          fine_tune $(start $name 0) "${on_validation[@]}" "initialization.label=${name}_$lr" optimizer.lr=$lr \
            label_fraction=10pct trainer.max_steps=2000
        done
      done
      for lr in 1e-3 3e-3; do
        fine_tune "${on_validation[@]}" "initialization.label=random_$lr" optimizer.lr=$lr label_fraction=10pct,100pct
      done
      fine_tune "${on_validation[@]}" initialization.label=random_3e-3_8000 optimizer.lr=3e-3 trainer.max_steps=8000 ;;
    compare)
      for seed in 0 1 2; do
        for name in random imagenet pretrained; do
          # shellcheck disable=SC2046
          fine_tune $(start $name $seed) "optimizer.lr=${rate[$name]}" "seed=$seed" \
            "label_fraction=${FRACTIONS:-2pct,10pct,100pct}"
        done
      done ;;
    converged) fine_tune initialization=random "optimizer.lr=${rate[random]}" seed=0,1,2 trainer.max_steps=8000 ;;
    report) "$python" -m ssl_rs.report "output_dir=$out" ;;
    keep)
      kept=$(cd "$(dirname "$0")/.." && pwd)/docs/results
      (cd "$out" && find pretrain finetune -name result.json -exec cp --parents -t "$kept" {} +) ;;
    *) echo "unknown stage $stage" >&2; exit 2 ;;
  esac
done
