"""Write the metrics and detections of an evaluation to files."""

import json
import math
from pathlib import Path
from typing import Any

from retinanet.engine.evaluate import Evaluation
from retinanet.formats.coco.results import coco_results
from retinanet.formats.dataset import Dataset

METRICS_FILE, DETECTIONS_FILE = "evaluation.json", "detections.json"


def write_evaluation(folder: Path, evaluation: Evaluation, data: Dataset, source: dict[str, Any]) -> None:
    """Write metrics and detections as JSON; NaN becomes null."""
    write_metrics(folder, evaluation.metrics_and_classes | source)
    by_id = ((data.image_ids[index], detections) for index, detections in sorted(evaluation.detections.items()))
    (folder / DETECTIONS_FILE).write_text(json.dumps(coco_results(by_id, data.category_ids)), encoding="utf-8")


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write the metrics of an evaluation as JSON; NaN becomes null."""
    (folder / METRICS_FILE).write_text(json.dumps(without_nan(metrics), indent=2) + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """A JSON value in which NaN is replaced by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {name: without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
