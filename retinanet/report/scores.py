"""Scores of a checkpoint, read from `evaluation.json` or from a line of `metrics.jsonl`, for its model card."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retinanet.config.facts import affects_results
from retinanet.config.public import public_name

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class; None where there are no objects, or where they were not computed."""

    ap: float | None = None
    ap50: float | None = None
    interval: Interval | None = None
    num_objects: int | None = None


@dataclass(frozen=True, kw_only=True)
class CardScores:
    """Scores of a checkpoint, without the paths in the files from which they were read."""

    metrics: dict[str, float]  # those of `METRICS` that could be measured
    classes: dict[str, ClassScores]
    data: tuple[str, ...] = ()  # names of the annotations
    intervals: dict[str, Interval]  # empty: none were computed
    resamples: int | None = None
    notes: tuple[str, ...] = ()  # settings that change AP
    is_from_training: bool  # from the log of the training run, not from `retinanet eval`


def scores_of_evaluation(values: Mapping[str, Any]) -> CardScores:
    """Read the content of an `evaluation.json`."""
    entries = [entry for entry in values.get("classes") or () if isinstance(entry, dict)]
    classes = {
        str(entry.get("name")): ClassScores(
            ap=_number(entry.get("AP")),
            ap50=_number(entry.get("AP50")),
            interval=_interval(entry.get("AP_interval")),
            num_objects=entry.get("objects"),
        )
        for entry in entries
    }
    intervals = {name: _interval(value) for name, value in (values.get("intervals") or {}).items()}
    overrides = [override for override in values.get("overrides") or () if _is_public(str(override))]
    changed = [f"evaluated with {', '.join(overrides)}"] if overrides else []
    return CardScores(
        metrics=_metrics(values),
        classes=classes or _classes(values),
        data=tuple(name for path in values.get("annotations") or () if (name := public_name(path))),
        intervals={name: interval for name, interval in intervals.items() if interval is not None},
        resamples=values.get("resamples"),
        notes=(*changed, *map(str, values.get("notes") or ())),
        is_from_training=False,
    )


def scores_of_training(line: Mapping[str, Any]) -> CardScores:
    """Read an evaluation in the `metrics.jsonl` of a run."""
    return CardScores(metrics=_metrics(line), classes=_classes(line), intervals={}, is_from_training=True)


def _is_public(override: str) -> bool:
    """Whether an override changes scores, without naming data or another path."""
    key, _, value = override.partition("=")
    names_data = key == "data" or key.startswith(("data.train", "data.val"))
    return affects_results(key) and not names_data and not set("/\\~$") & set(value)


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name in METRICS if (value := _number(values.get(name))) is not None}


def _classes(values: Mapping[str, Any]) -> dict[str, ClassScores]:
    return {
        name.removeprefix("AP/"): ClassScores(ap=_number(value))
        for name, value in values.items()
        if name.startswith("AP/")
    }


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def _interval(value: Any) -> Interval | None:
    numbers = [_number(end) for end in value] if isinstance(value, list) and len(value) == 2 else []
    match numbers:
        case [float(low), float(high)]:
            return low, high
    return None
