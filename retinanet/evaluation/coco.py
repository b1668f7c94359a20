"""COCO average precision, by faster-coco-eval: the rules and figures of pycocotools, in a fraction of its time."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

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
    """Average precision of `results` on `ground_truth`, both in COCO form. No results at all score 0.

    All ids are whole numbers, scores and boxes are finite, and every object has an area. Neither argument is changed.
    """
    # Copies, for the evaluation writes into what it is given; ids from 1, for 0 stands for "not found" in it.
    objects = [{**entry, "id": number} for number, entry in enumerate(ground_truth["annotations"], start=1)]
    found = [
        {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for number, result in enumerate(results, start=1)
    ]
    truth, detected = (COCO({**ground_truth, "annotations": entries}) for entries in (objects, found))
    lines: list[str] = []
    evaluation = COCOeval_faster(truth, detected, "bbox", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.print_function = lines.append
    evaluation.summarize()
    precision = evaluation.eval["precision"]  # (IoU, recall, class, size, detections): all sizes, 100 detections
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    per_class = {names[id_]: _mean(precision[:, :, k, 0, -1]) for k, id_ in enumerate(evaluation.params.catIds)}
    metrics = {name: _or_nan(value) for name, value in zip(METRICS, evaluation.stats.tolist(), strict=True)}
    return CocoScores(metrics, per_class, "\n".join(lines[: len(METRICS)]))  # two more recalls follow


def _silent(line: str) -> None:
    """For its progress lines."""


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")


def _or_nan(value: float) -> float:
    return float("nan") if value == -1 else value
