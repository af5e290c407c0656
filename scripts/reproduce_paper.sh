#!/usr/bin/env bash
# The comparison of Li, Chen & Shi (JSTARS 2021) as commands: pretrain with their recipe on the unlabeled training scenes,
# then fine-tune random, ImageNet and pretrained weights with 10, 20, 50 and 100 % of the labels, and write the report.
#
# usage: scripts/reproduce_paper.sh [BACKBONE]        BACKBONE: resnet50 (default) or vgg16_bn
#   DATASETS  which data sets, default "potsdam vaihingen levir_cs"; each must be an option of `dataset` (see --help)
#   DATA      folder that holds one folder per data set, named like it, default ./data
#   PYTHON    default python
#   LAUNCH    e.g. "torchrun --nproc_per_node=8" to pretrain on many GPUs, default "$PYTHON"
#   MORE      further overrides for every command, e.g. "launcher=slurm" or "trainer.max_steps=20"
#
# Everything can be started again: what is finished is skipped. ImageNet weights come from torchvision; without a network
# name them: MORE="initialization.weights=...".
set -euo pipefail
backbone=${1:-resnet50}
python=${PYTHON:-python}
launch=${LAUNCH:-$python}
read -ra more <<< "${MORE:-}"

for dataset in ${DATASETS:-potsdam vaihingen levir_cs}; do
  data=("dataset=$dataset" "dataset.root=${DATA:-data}/$dataset" "${more[@]}")
  "$python" -m ssl_rs.prepare "${data[@]}"
  $launch -m ssl_rs.pretrain "experiment=paper_$backbone" "${data[@]}"
  # 256 px tiles and crops as in pretraining; the sweep's other settings are those of conf/finetune.yaml.
  "$python" -m ssl_rs.finetune sweep=label_fraction "backbone=$backbone" dataset.crop_size=256 "${data[@]}"
done
"$python" -m ssl_rs.report
