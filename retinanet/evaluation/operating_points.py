"""Operating points: the score threshold with the highest F1, or one that meets a required precision or recall."""

from typing import NamedTuple

import numpy as np

from retinanet.evaluation.curves import PrecisionRecall


class OperatingPoint(NamedTuple):
    """A score threshold with its precision and recall. Detections with a score above it count, as in postprocessing."""

    threshold: float
    precision: float
    recall: float
    f1: float


class Requirement(NamedTuple):
    """What the threshold of each class must achieve: a precision, a recall or, if both are None, the highest F1."""

    precision: float | None = None
    recall: float | None = None

    def __str__(self) -> str:
        if self.precision is not None:
            return f"precision of at least {self.precision:g}"
        return "best F1" if self.recall is None else f"recall of at least {self.recall:g}"


BEST_F1 = Requirement()


def operating_point(curve: PrecisionRecall, requirement: Requirement) -> OperatingPoint | None:
    """The operating point of a class that meets a requirement; None if there is none."""
    if requirement.precision is not None:
        return for_precision(curve, requirement.precision)
    return best_f1(curve) if requirement.recall is None else for_recall(curve, requirement.recall)


def best_f1(curve: PrecisionRecall) -> OperatingPoint | None:
    """The point with the highest F1, on ties the one with the highest threshold; None if no detection matches."""
    return _best(curve, curve.f1, curve.f1, curve.f1 > 0)


def for_precision(curve: PrecisionRecall, precision: float) -> OperatingPoint | None:
    """The point with the highest recall whose precision is at least `precision`; None if it is never reached."""
    return _best(curve, curve.true_positives, curve.precision, curve.precision >= precision)


def for_recall(curve: PrecisionRecall, recall: float) -> OperatingPoint | None:
    """The point with the highest precision whose recall is at least `recall`; None if it is never reached."""
    return _best(curve, curve.precision, curve.true_positives, curve.recall >= recall)


def _best(
    curve: PrecisionRecall, first: np.ndarray, second: np.ndarray, is_allowed: np.ndarray
) -> OperatingPoint | None:
    """The allowed point with the largest `first`, then the largest `second`, then the highest threshold."""
    allowed = np.flatnonzero(is_allowed & (curve.true_positives > 0))
    if not curve.num_objects or not len(allowed):
        return None
    best = int(allowed[np.lexsort((allowed, -second[allowed], -first[allowed]))[0]])
    return OperatingPoint(
        threshold=float(curve.thresholds[best]),
        precision=float(curve.precision[best]),
        recall=float(curve.recall[best]),
        f1=float(curve.f1[best]),
    )
