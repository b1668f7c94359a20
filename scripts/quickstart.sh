#!/usr/bin/env bash
# Set up the environment, generate a small dataset, train a detector on it, evaluate it, and draw its detections.
# A second run reuses the environment and replaces runs/quickstart.
#
#   bash scripts/quickstart.sh [KEY=VALUE ...]    config keys for training, such as train.precision=fp32
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh base

run=runs/quickstart
best=$run/checkpoints/best.pt
step() { printf '\n== %s\n' "$*"; }

step "1/4 generate the dataset"
python -m retinanet.data.synthetic datasets/shapes
step "2/4 train"
python tools/train.py configs/quickstart.yaml --output "$run" --overwrite "$@"
step "3/4 evaluate the best checkpoint"
python tools/eval.py "$best"
step "4/4 draw its detections"
python tools/predict.py "$best" datasets/shapes/val --output "$run/images" --limit 12 --overwrite

root=$(pwd -P)
cat <<END

== Done. All results are in $root/$run:
  config         $run/config.yaml        every setting of this run, including defaults
  log            $run/log.txt
  metrics        $run/metrics.jsonl      as curves: tensorboard --logdir runs
  score          $run/evaluation.json
  report         $run/report.html        scores, curves, errors and images, for a web browser
  checkpoints    $run/checkpoints/       best.pt, last.pt
  images         $run/images/

Next steps, from $root:
  source .venv/bin/activate
  tensorboard --logdir runs
  # train with other settings: any config key, as KEY=VALUE
  retinanet train quickstart --output runs/trial train.optimizer.lr=0.001 train.seed=1
  # train on your own images: a folder with annotations in COCO, YOLO, Pascal VOC, CSV, labelme or Open Images format
  retinanet check my
  retinanet train --data my --output runs/mine
END
