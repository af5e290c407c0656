#!/usr/bin/env bash
# The comparison of Li, Chen & Shi (JSTARS 2021) as commands: pretrain with their recipe on the unlabeled training scenes,
# then fine-tune random, ImageNet and pretrained weights with 10, 20, 50 and 100 % of the labels, and write the report.
#
# usage: scripts/reproduce_paper.sh [BACKBONE]        BACKBONE: resnet50 (default) or vgg16_bn
#   DATASETS  which data sets, default "potsdam vaihingen levir_cs"; each must be an option of `dataset` (see --help)
#   DATA      folder that holds one folder per data set, named like it, default ./data
#   PYTHON    default python
#   LAUNCH    e.g. "torchrun --nproc_per_node=8" to pretrain on many GPUs, default "$PYTHON"
#   PRETRAIN  further overrides for the pretraining, e.g. "trainer.max_steps=20000"
#   FINETUNE  further overrides for the sweep, e.g. "launcher=slurm" or "seed=0"
#
# Everything can be started again: what is finished is skipped. ImageNet weights come from torchvision; without a network
# name their file: FINETUNE="initialization.weights=resnet50-0676ba61.pth".
set -euo pipefail
backbone=${1:-resnet50}
python=${PYTHON:-python}
launch=${LAUNCH:-$python}
read -ra pretrain <<< "${PRETRAIN:-}"
read -ra finetune <<< "${FINETUNE:-}"

code=0
for dataset in ${DATASETS:-potsdam vaihingen levir_cs}; do
  data=("dataset=$dataset" "dataset.root=${DATA:-data}/$dataset")
  "$python" -m ssl_rs.prepare "${data[@]}"
  $launch -m ssl_rs.pretrain "experiment=paper_$backbone" "${data[@]}" "${pretrain[@]}"
  # 256 px tiles and crops as in pretraining. The 500 steps of conf/finetune.yaml are a first look: too few to compare by.
  "$python" -m ssl_rs.finetune sweep=label_fraction "backbone=$backbone" dataset.crop_size=256 trainer.max_steps=4000 \
    "${data[@]}" "${finetune[@]}" || code=$?
done
"$python" -m ssl_rs.report   # tells which runs are missing, too, and the command of each
exit $code
