"""Measure the effect of tiles, test-time augmentation and the merge method on AP for large images.

python -m retinanet.benchmarks.tiles CHECKPOINT TILE_SIZE [KEY=VALUE ...]

The keys set the data, such as data.val.images=..., and apply to every variant. Times are CPU time, including decoding.
`retinanet.benchmarks.image_grids` composes large images from a dataset.
"""

import sys
import time
from typing import NamedTuple

from retinanet.benchmarks.report import table
from retinanet.data.build import load_val_data
from retinanet.evaluation.coco import score_detections
from retinanet.inference.predictor import Predictor

METRICS = ("AP", "AP50", "APs", "APm", "APl")
# Large images contain more objects than COCO's 100 detections per image and class.
SHARED = ("postprocess.max_detections=1000", "evaluation.max_detections=1000")


class Score(NamedTuple):
    """Metrics of one variant, and its cost."""

    metrics: dict[str, float]
    seconds: float  # CPU time per image
    detections: float  # per image


def variants(tile_size: int) -> dict[str, list[str]]:
    """List the variants by name, each as overrides of the config."""
    tiles = [f"inference.tile.size={tile_size}"]
    alone = [*tiles, "inference.tile.whole_image=false"]
    fused = "inference.merge=weighted_boxes"
    flip, scales = "inference.augment.flip=true", "inference.augment.scales=[0.8, 1.25]"
    return {
        "whole image": [],
        "whole image, flip": [flip],
        "whole image, flip, weighted boxes": [flip, fused],
        "tiles": alone,
        "tiles, weighted boxes": [*alone, fused],
        "tiles, no overlap": [*alone, "inference.tile.overlap=0"],
        "tiles, overlap 0.1": [*alone, "inference.tile.overlap=0.1"],
        "tiles, overlap 0.4": [*alone, "inference.tile.overlap=0.4"],
        "tiles, soft NMS (linear)": [*alone, "postprocess.soft_nms=linear"],
        "tiles, soft NMS (gaussian)": [*alone, "postprocess.soft_nms=gaussian"],
        "tiles and whole image": tiles,
        "tiles and whole image, weighted boxes": [*tiles, fused],
        "tiles, flip": [*alone, flip],
        "tiles, flip, weighted boxes": [*alone, flip, fused],
        "tiles, scales": [*alone, scales],
        "tiles, flip and scales": [*alone, flip, scales],
        "tiles, flip and scales, weighted boxes": [*alone, flip, scales, fused],
    }


def score(checkpoint: str, overrides: list[str]) -> Score:
    """Score one variant on the validation set of its config."""
    predictor = Predictor.from_checkpoint(checkpoint, overrides, use_thresholds=False)
    data = load_val_data(predictor.cfg, predictor.class_names)
    start = time.process_time()
    detections = dict(enumerate(predictor.predict(data.paths, batch_size=1)))
    seconds = time.process_time() - start
    scores = score_detections(data, detections, max_detections=predictor.cfg.evaluation.max_detections)
    found = sum(len(of_image) for of_image in detections.values())
    return Score(scores.metrics, seconds / len(data), found / len(data))


def main(argv: list[str]) -> None:
    checkpoint, tile_size, *overrides = argv
    rows = []
    for name, changed in variants(int(tile_size)).items():
        result = score(checkpoint, [*SHARED, *overrides, *changed])
        values = [f"{result.metrics[metric]:.3f}" for metric in METRICS]
        rows.append([name, *values, f"{result.seconds:.2f}", f"{result.detections:.0f}"])
        print(f"{name}: AP {values[0]}", file=sys.stderr, flush=True)
    print(table(f"tiles of {tile_size} pixels", ["", *METRICS, "s/image", "detections"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
