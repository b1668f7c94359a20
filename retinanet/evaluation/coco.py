"""COCO average precision, by pycocotools."""

import contextlib
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.structures import Detections

# pycocotools' twelve figures, in its order.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoScores(NamedTuple):
    """Figures in 0..1; nan where there is no object to find."""

    metrics: dict[str, float]  # by the names of METRICS
    per_class: dict[str, float]  # AP by class name
    summary: str  # the twelve lines in pycocotools' own words


def coco_results(detections: Iterable[tuple[int, Detections]], category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """Detections with their image ids, in COCO results form: bbox is [x, y, width, height]."""
    results = []
    for image_id, found in detections:
        corners, scores, labels = found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()
        for (x1, y1, x2, y2), score, label in zip(corners, scores, labels, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score})
    return results


def score_results(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> CocoScores:
    """Average precision of `results` on `ground_truth`, both in COCO form. No results at all score 0."""
    with contextlib.redirect_stdout(io.StringIO()):  # its progress lines
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        found = COCO()
        # Not loadRes: it fails on an empty list. This is what it does for boxes.
        annotations = [
            {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
            for number, result in enumerate(results, start=1)
        ]
        found.dataset = {**ground_truth, "annotations": annotations}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as summary:
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # (IoU, recall, class, size, detections): all sizes, 100 detections
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    per_class = {names[id_]: _mean(precision[:, :, k, 0, -1]) for k, id_ in enumerate(evaluation.params.catIds)}
    metrics = {name: _or_nan(value) for name, value in zip(METRICS, evaluation.stats.tolist(), strict=True)}
    return CocoScores(metrics, per_class, summary.getvalue().rstrip())


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


def _or_nan(value: float) -> float:
    return float("nan") if value == -1 else value
