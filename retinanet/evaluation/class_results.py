"""Results of each class as a table: average precision, and an operating point."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from retinanet.evaluation.operating_points import BEST_F1, OperatingPoint, Requirement

if TYPE_CHECKING:
    from retinanet.evaluation.bootstrap import Interval


class ClassResult(NamedTuple):
    """Results of one class."""

    name: str
    num_objects: int
    ap: float  # like `ap50`, NaN if there are no objects
    ap50: float
    point: OperatingPoint | None  # None if no threshold meets the requirement
    ap_interval: "Interval | None" = None


def class_table(results: Sequence[ClassResult], requirement: Requirement) -> str:
    """The results as aligned text, one line per class below a header."""
    has_intervals = any(result.ap_interval is not None for result in results)
    header = ["class", "objects", "AP", *(["95 % interval"] if has_intervals else []), "AP50"]
    header += ["score >", "precision", "recall", "best F1" if requirement == BEST_F1 else "F1"]
    rows = [header, *(_row(result, has_intervals) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _row(result: ClassResult, has_intervals: bool) -> list[str]:
    interval = result.ap_interval
    intervals = [_interval(interval)] if has_intervals else []
    point = result.point
    values = (point.threshold, point.precision, point.recall, point.f1) if point else (math.nan,) * 4
    return [
        result.name,
        str(result.num_objects),
        _number(result.ap),
        *intervals,
        _number(result.ap50),
        *(_number(value) for value in values),
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(interval: "Interval | None") -> str:
    if interval is None or math.isnan(interval.low):
        return "-"
    return f"{interval.low:.3f} to {interval.high:.3f}"
