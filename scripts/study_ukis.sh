#!/usr/bin/env bash
# The second study of docs/results.md as commands: labels saved across sensors. Two Landsat scenes train, one of Sentinel-2 tests.
#
# usage: scripts/study_ukis.sh DATA WEIGHTS STAGE ...
#   DATA     folder with landsat5.npz, landsat7.npz and sentinel2.npz
#   WEIGHTS  torchvision's mobilenet_v2-b0353104.pth
#   STAGE    pretrain   three encoders by the three tasks together, from the two training scenes without their labels
#            compare    the initializations at FRACTIONS and SEEDS, scored on sentinel2
#            converged  random initialization with all labels and twice STEPS
#            report     all finished cells as tables and a page
#            keep       copy each finished result.json to docs/results/ukis/
#   PYTHON     default python
#   OUT        default outputs/study_ukis
#   SEEDS      default "0 1 2"
#   STARTS     of compare, default "random imagenet pretrained"
#   FRACTIONS  default 10pct,100pct
#   STEPS      of fine-tuning, default 1000
#
# Everything can be started again: what is finished is skipped. Stages may run side by side, one thread each.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,/^set /p' "$0" | grep '^#' | cut -c3- >&2
  exit 2
fi
data=$1 weights=$2
shift 2
python=${PYTHON:-python} out=${OUT:-outputs/study_ukis} steps=${STEPS:-1000} seeds=${SEEDS:-0 1 2}
starts=${STARTS:-random imagenet pretrained}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
common=(dataset=ukis_clouds "dataset.root=$data" dataset.downsample=1 dataset.crop_size=64 "output_dir=$out" logger=none
  trainer.precision=bf16)
declare -A rate=([random]=3e-3 [imagenet]=1e-3 [pretrained]=3e-3)   # as scripts/study_mbrsc.sh chose

fine_tune() {   # what comes later on a line goes before
  "$python" -m ssl_rs.finetune -m experiment=mbrsc_finetune "${common[@]}" "trainer.max_steps=$steps" "$@"
}

pretraining() { echo "$out/pretrain/pretrained_seed$1"; }   # where the pretraining of a seed lies

start() {   # where an initialization starts; each seed of fine-tuning has a pretraining of its own
  case $1 in
    random) echo initialization=random ;;
    imagenet) echo initialization=imagenet "initialization.weights=$weights" ;;
    pretrained) echo initialization=pretrained "initialization.run=$(pretraining "$2")" ;;
  esac
}

for stage in "$@"; do
  case $stage in
    pretrain)
      for seed in $seeds; do
        "$python" -m ssl_rs.pretrain experiment=mbrsc_pretrain "${common[@]}" "seed=$seed" "run_dir=$(pretraining "$seed")"
      done ;;
    compare)
      for seed in $seeds; do
        for name in $starts; do
          # shellcheck disable=SC2046
          fine_tune $(start "$name" "$seed") "optimizer.lr=${rate[$name]}" "seed=$seed" "label_fraction=${FRACTIONS:-10pct,100pct}"
        done
      done ;;
    converged)
      for seed in $seeds; do
        fine_tune initialization=random "optimizer.lr=${rate[random]}" "seed=$seed" "trainer.max_steps=$((2 * steps))" label_fraction=100pct
      done ;;
    report) "$python" -m ssl_rs.report "runs=$out/finetune" "run_dir=$out/report" ;;
    keep)
      kept=$(cd "$(dirname "$0")/.." && pwd)/docs/results/ukis
      mkdir -p "$kept"
      for kind in pretrain finetune; do
        (cd "$out" && find "$kind" -name result.json -exec cp --parents -t "$kept" {} +)
      done
      # Where this machine has its files means nothing elsewhere.
      find "$kept" -name result.json -exec sed -i "s|\"$out/|\"outputs/study_ukis/|; s|=$out|=outputs/study_ukis|; s|=$data|=DATA|; s|=$weights|=WEIGHTS|" {} + ;;
    *) echo "unknown stage $stage" >&2; exit 2 ;;
  esac
done
