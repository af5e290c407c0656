#!/usr/bin/env bash
# The whole comparison in minutes: pretrain on Blue Marble, fine-tune from random and from pretrained weights, report.
# Usage: scripts/demo.sh [PYTHON]
# It has a folder of its own, so that `initialization=pretrained` does not find its short pretraining beside a real one.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
common=(output_dir=outputs/demo store_dir=outputs/stores)

echo "1/3 Pretraining on unlabeled images ..."
run=$("$python" -m ssl_rs.pretrain experiment=demo_pretrain logger=none "${common[@]}" | tail -n 1)
echo "2/3 Fine-tuning from random and from pretrained weights, with 10 % and 100 % of the labels ..."
"$python" -m ssl_rs.finetune sweep=demo logger=none "${common[@]}" "initialization.run='$run'"
echo "3/3 Report ..."
page=$("$python" -m ssl_rs.report "${common[@]}")
echo "The report is at $page"
