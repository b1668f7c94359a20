"""Annotations, detections, and their scores according to this package and pycocotools."""

import contextlib
import copy
import io
import math

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.evaluation.coco import METRICS, CocoScores, score_detections
from retinanet.formats.coco.results import coco_results
from retinanet.structures import Detections
from tests.helpers.datasets import dataset_from_coco


def truth(boxes: list[tuple[int, list[float]]], *, num_images: int = 2, num_classes: int = 1) -> dict:
    """A COCO document with objects of category 1, given as pairs of image id and [x, y, width, height]."""
    annotations = [
        {"id": n, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, box) in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": n, "height": 100, "width": 100} for n in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, num_classes + 1)],
    }


def found(*boxes_xywh: list[float], scores: list[float], labels: list[int] | None = None) -> Detections:
    """Detections of one image."""
    boxes = torch.tensor(boxes_xywh, dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        boxes.float(),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels or [0] * len(scores), dtype=torch.int64),
    )


def by_pycocotools(document: dict, results: list[dict]) -> tuple[dict[str, float], dict[str, float], str]:
    """Metrics, AP by class name, and printed lines of pycocotools."""
    document, results = copy.deepcopy((document, results))
    with contextlib.redirect_stdout(io.StringIO()):
        objects, detected = COCO(), COCO()
        objects.dataset = document
        # loadRes fails on an empty list.
        entries = [{**r, "id": n, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for n, r in enumerate(results, 1)]
        detected.dataset = {**document, "annotations": entries}
        objects.createIndex()
        detected.createIndex()
        evaluation = COCOeval(objects, detected, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    metrics = dict(zip(METRICS, (math.nan if v == -1 else v for v in evaluation.stats.tolist()), strict=True))
    names = {category["id"]: category["name"] for category in document["categories"]}
    per_class = {}
    for number, category_id in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][:, :, number, 0, -1]
        valid = precision[precision > -1]
        per_class[names[category_id]] = float(valid.mean()) if valid.size else math.nan
    return metrics, per_class, printed.getvalue()


def assert_equal_to_pycocotools(document: dict, detections: dict[int, Detections]) -> CocoScores:
    """Assert that scores and printed lines are bit-identical to pycocotools, and that scoring changes no input."""
    dataset = dataset_from_coco(document)
    by_id = {dataset.image_ids[index]: of_image for index, of_image in detections.items()}
    results = coco_results(sorted(by_id.items()), dataset.category_ids)
    before = copy.deepcopy((dataset, detections))
    scores = score_detections(dataset, detections)
    for index, of_image in detections.items():
        for field in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(of_image, field), getattr(before[1][index], field))
    for field in ("boxes_xywh", "areas", "labels", "is_crowd"):
        assert np.array_equal(getattr(dataset, field), getattr(before[0], field))
    metrics, per_class, printed = by_pycocotools(document, results)
    assert list(scores.metrics) == list(metrics) and list(scores.per_class) == list(per_class)
    np.testing.assert_array_equal(list(scores.metrics.values()), list(metrics.values()))  # NaN equals NaN
    np.testing.assert_array_equal(list(scores.per_class.values()), list(per_class.values()))
    assert scores.summary == printed.rstrip()
    return scores
