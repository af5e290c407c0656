#!/usr/bin/env bash
# One pretraining on all GPUs of a SLURM node, then the label-fraction sweep as one job a cell.
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120   # goes to what srun starts: the run saves a checkpoint; submitted again, it goes on
# usage: [PRETRAIN="pretext=[simclr]"] [FINETUNE="trainer.max_steps=4000"] sbatch scripts/sweep_slurm.sh dataset=folder \
#          dataset.root=/data/mine backbone=resnet50
# The arguments are for both; PRETRAIN and FINETUNE are further ones of each, without spaces within.
set -euo pipefail
read -ra pretrain <<< "${PRETRAIN:-}"
read -ra finetune <<< "${FINETUNE:-}"
python -m ssl_rs.finetune sweep=label_fraction --cfg "$@" "${finetune[@]}" > /dev/null   # a mistake shows now, not in hours
srun --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-64}" \
  torchrun --standalone --nproc_per_node="${SLURM_GPUS_ON_NODE:-8}" -m ssl_rs.pretrain "$@" "${pretrain[@]}"
# Where a run failed, the report tells which are missing, and the command of each.
code=0
python -m ssl_rs.finetune sweep=label_fraction launcher=slurm "$@" "${finetune[@]}" || code=$?
outputs=()
for argument in "$@"; do
  if [[ $argument == output_dir=* ]]; then outputs=("$argument"); fi
done
python -m ssl_rs.report "${outputs[@]}"
exit $code
