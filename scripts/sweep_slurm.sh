#!/usr/bin/env bash
# One pretraining on all GPUs of a SLURM node, then the label-fraction sweep as one job a cell.
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120   # goes to what srun starts: the run saves a checkpoint; submitted again, it goes on
# usage: sbatch scripts/sweep_slurm.sh dataset=folder dataset.root=/data/mine backbone=resnet50
set -euo pipefail
srun --ntasks=1 torchrun --standalone --nproc_per_node="${SLURM_GPUS_ON_NODE:-8}" -m ssl_rs.pretrain "$@"
# Where a run failed, the report tells which are missing, and the command of each.
code=0
python -m ssl_rs.finetune sweep=label_fraction launcher=slurm "$@" || code=$?
outputs=()
for argument in "$@"; do
  if [[ $argument == output_dir=* ]]; then outputs=("$argument"); fi
done
python -m ssl_rs.report "${outputs[@]}"
exit $code
