#!/usr/bin/env bash
# From nothing to a trained, scored detector and images of what it finds, on a small data set that is drawn on the spot.
# Takes no arguments; a second run reuses the environment and replaces runs/quickstart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh base

run=runs/quickstart
best=$run/checkpoints/best.pt
step() { printf '\n== %s\n' "$*"; }

step "1/4 draw the data set"
python -m retinanet.data.synthetic datasets/shapes
step "2/4 train"
python tools/train.py configs/quickstart.yaml --output "$run" --overwrite
step "3/4 evaluate the best checkpoint"
python tools/eval.py "$best"
step "4/4 draw what it finds"
python tools/predict.py "$best" datasets/shapes/val --output "$run/images" --limit 12

root=$(pwd -P)
cat <<END

== Done. Everything lies in $root/$run:
  config         $run/config.yaml        every setting of this run, defaults included
  log            $run/log.txt
  metrics        $run/metrics.jsonl      and, as curves: tensorboard --logdir runs
  score          $run/evaluation.json
  checkpoints    $run/checkpoints/       best.pt, last.pt
  images       $run/images/

What to type next, from $root:
  source .venv/bin/activate
  tensorboard --logdir runs
  # the same training with other settings: any key of the config, as KEY=VALUE
  retinanet train configs/quickstart.yaml --output runs/trial train.optimizer.lr=0.0005 train.seed=1
  # your own images, with annotations in COCO form
  retinanet train configs/quickstart.yaml --output runs/mine \\
    data.train.images=my/train data.train.annotations=my/train.json \\
    data.val.images=my/val data.val.annotations=my/val.json
END
