"""Measure the errors of merging alone: cut the objects of large images into tiles, and merge the parts again.

python -m retinanet.benchmarks.tile_merging TILE_SIZE IMAGES ANNOTATIONS

Every tile detects the visible part of each object, with noise, so an ideal merge finds every object once. Images are
not read. `retinanet.benchmarks.image_grids` composes large images from a dataset.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch

from retinanet.benchmarks.report import table
from retinanet.config import DataSource, MergeMethod
from retinanet.detection.merge import Merge, ViewDetections
from retinanet.evaluation.coco import score_detections
from retinanet.formats.dataset import Dataset, ImageRecord
from retinanet.formats.images.windows import Window
from retinanet.formats.read import read_dataset
from retinanet.inference.views import tile_spans
from retinanet.structures import Detections

MIN_VISIBLE = 0.1  # share of an object's area that a tile needs to show to detect it
NOISE = 0.03  # standard deviation of the sides of a box, as a share of its width or height
OVERLAPS = (0.0, 0.1, 0.2, 0.4)
METHODS: tuple[MergeMethod, ...] = ("nms", "weighted_boxes")
METRICS = ("AP", "AP50", "APs", "APm", "APl")
MAX_DETECTIONS = 1000  # per image and class


def ideal_detections(record: ImageRecord, window: Window, random: np.random.Generator, *, noise: float) -> Detections:
    """Return the parts of an image's objects that a window shows, with higher scores for larger parts."""
    boxes = record.boxes[~record.is_crowd].astype(np.float64)
    labels = record.labels[~record.is_crowd]
    low, high = np.array(window[:2]), np.array(window[2:])
    parts = np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], axis=1)
    sizes = (parts[:, 2:] - parts[:, :2]).clip(min=0)
    visible = sizes.prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = visible > MIN_VISIBLE
    parts = parts[kept] + noise * random.normal(size=(kept.sum(), 4)) * np.tile(sizes[kept], 2)
    parts = np.concatenate([np.maximum(parts[:, :2], low), np.minimum(parts[:, 2:], high)], axis=1)
    scores = (0.4 + 0.5 * visible[kept] + random.normal(scale=0.05, size=len(parts))).clip(0.06, 0.99)
    order = np.argsort(-scores)
    return Detections(
        torch.from_numpy(parts[order]).float(),
        torch.from_numpy(scores[order]).float(),
        torch.from_numpy(labels[kept][order]),
    )


def merged_detections(
    dataset: Dataset, merge: Merge, *, tile_size: int, overlap: float, noise: float = NOISE, seed: int = 0
) -> dict[int, Detections]:
    """Cut the objects of all images into tiles and merge them: detections by image index."""
    random = np.random.default_rng(seed)
    result = {}
    for index in range(len(dataset)):
        record = dataset.image(index)
        windows = [
            Window(x1, y1, x2, y2)
            for y1, y2 in tile_spans(record.height, tile_size, overlap)
            for x1, x2 in tile_spans(record.width, tile_size, overlap)
        ]
        found = [ViewDetections(window, ideal_detections(record, window, random, noise=noise)) for window in windows]
        result[index] = merge(found, (record.height, record.width))
    return result


def main(argv: Sequence[str]) -> None:
    tile_size, images, annotations = argv
    dataset = read_dataset((DataSource(annotations=annotations, images=images),))
    rows = []
    for overlap in OVERLAPS:
        for method in METHODS:
            found = merged_detections(dataset, Merge(method=method), tile_size=int(tile_size), overlap=overlap)
            metrics = score_detections(dataset, found, max_detections=MAX_DETECTIONS).metrics
            count = sum(map(len, found.values()))
            rows.append([f"{method}, overlap {overlap}", *(f"{metrics[name]:.3f}" for name in METRICS), str(count)])
    title = f"ideal detections in tiles of {tile_size} pixels, {int((~dataset.is_crowd).sum())} objects"
    print(table(title, ["", *METRICS, "detections"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
