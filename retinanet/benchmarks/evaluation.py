"""COCO metrics of synthetic detections: ours, and pycocotools called directly."""

import contextlib
import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.benchmarks.measure import Variant, compare, ratio
from retinanet.benchmarks.report import comparison_table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.evaluation.coco import METRICS, score_results

IMAGES, FOUND, OBJECTS, CLASSES = 500, 100, 7, 80  # `FOUND` and `OBJECTS` in each image
SIDE = 640  # of an image, pixels
OURS, THEIRS = "ours", "pycocotools"


def run(settings: Settings) -> SuiteResult:
    images, classes = settings.batch or IMAGES, settings.classes or CLASSES
    truth, results = synthetic(images, classes)
    variants = [
        Variant(OURS, our_call(truth, results), on_device=False),
        Variant(THEIRS, raw_call(truth, results), on_device=False),
    ]
    ours, raw = (variant.call() for variant in variants)
    difference = max(abs(ours[name] - raw[name]) for name in METRICS if not np.isnan(ours[name]))
    measured = compare(variants, rounds=settings.rounds, device=torch.device("cpu"), what="eval")
    title = f"eval: {images} images x {FOUND} detections x {classes} classes"
    tables = [
        comparison_table(title, measured, ours=OURS),
        f"largest difference of the twelve metrics: {difference:.1e}",
    ]
    details = {
        "images": images,
        "detections_per_image": FOUND,
        "classes": classes,
        "largest_difference": difference,
        "variants": to_plain_values(measured, ours=OURS),
    }
    return SuiteResult({"vs_pycocotools": ratio(measured[THEIRS], measured[OURS]).of_rounds}, tables, details)


def synthetic(images: int, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects, and detections of which as many lie near one as there are objects; both in COCO form."""
    random = np.random.default_rng(0)
    annotations, results = [], []
    for image_id in range(1, images + 1):
        objects = boxes_at_random(random, OBJECTS)
        labels = random.integers(1, classes + 1, OBJECTS)
        for box, label in zip(objects.tolist(), labels.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "bbox": box}
            annotations.append(entry | {"area": box[2] * box[3], "iscrowd": 0})
        near = objects * random.uniform(0.9, 1.1, objects.shape)
        boxes = np.concatenate([near, boxes_at_random(random, FOUND - OBJECTS)]).tolist()
        kinds = np.concatenate([labels, random.integers(1, classes + 1, FOUND - OBJECTS)]).tolist()
        for box, kind, score in zip(boxes, kinds, random.random(FOUND).tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": kind, "bbox": box, "score": score})
    truth = {
        "images": [{"id": number, "width": SIDE, "height": SIDE} for number in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)],
    }
    return truth, results


def boxes_at_random(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4): x, y, width, height; sides evenly over the logarithm."""
    sides = np.exp(random.uniform(np.log(8), np.log(SIDE / 2), (count, 2)))
    return np.concatenate([random.random((count, 2)) * (SIDE - sides), sides], axis=1)


def our_call(truth: dict[str, Any], results: list[dict[str, Any]]) -> Callable[[], dict[str, float]]:
    truth, results = copy.deepcopy((truth, results))
    return lambda: score_results(truth, results).metrics


def raw_call(truth: dict[str, Any], results: list[dict[str, Any]]) -> Callable[[], dict[str, float]]:
    # Copies of its own: it writes into what it is given.
    truth, results = copy.deepcopy((truth, results))

    def call() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            objects = COCO()
            objects.dataset = truth
            objects.createIndex()
            evaluation = COCOeval(objects, objects.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))

    return call
