"""The metrics log of a run."""

import json
from pathlib import Path
from typing import Any

from retinanet.engine.metrics_log import METRICS_FILE

TIMING_KEYS = ("images_per_s", "data_share", "step_share", "evaluation_share", "saving_share")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def metrics_without_times(folder: Path) -> list[dict[str, Any]]:
    """The metrics log of a run without the keys that depend on the speed of the machine."""
    return [{k: v for k, v in line.items() if k not in TIMING_KEYS} for line in read_metrics(folder)]
