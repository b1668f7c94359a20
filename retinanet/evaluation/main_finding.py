"""State the main conclusion of an evaluation in one sentence."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from retinanet.evaluation.class_results import ClassResult

if TYPE_CHECKING:
    from retinanet.evaluation.bootstrap import Interval
    from retinanet.evaluation.diagnosis import Diagnosis
    from retinanet.evaluation.tide import ErrorKind

NEAR_ZERO = 0.01  # AP
WIDE_INTERVAL = 0.1  # of AP; improvements that matter are often smaller
DIFFERENT_THRESHOLDS = 0.2
WEAK_CLASS = 0.5  # share of the median AP
MAX_LISTED = 3
ERRORS = {
    "duplicate": "duplicate detections",
    "background": "detections of background",
    "missed": "missed objects",
}  # kinds that are not called "errors of ..."


def main_finding(
    results: Sequence[ClassResult],
    *,
    num_images: int,
    num_detections: int,
    ap_interval: "Interval | None" = None,
    are_thresholds_stored: bool = False,
    diagnoses: Sequence["Diagnosis"] = (),
    largest_error: "ErrorKind | None" = None,
) -> str:
    """Return the first of these conclusions that applies, in one sentence.

    They are: nothing can be measured, there are no detections, a cause of a low AP is known, almost no objects are
    matched, a class is not detected, the scores are imprecise, the classes need different thresholds, one class is
    weak, one kind of error dominates.

    Args:
        ap_interval: 95 % interval of the mean AP; None: not computed.
        are_thresholds_stored: whether the thresholds of the results are stored in the checkpoint.
        diagnoses: causes of a low AP, the most likely one first.
        largest_error: the kind of error that costs the most AP50; None: not computed.
    """
    measured = [result for result in results if result.num_objects]
    if not measured:
        return "These images contain no objects, so nothing can be measured: evaluate on images with objects."
    if not num_detections:
        return "There are no detections, so AP is 0: lower postprocess.min_score, or train longer."
    ap = fmean(result.ap for result in measured)
    if diagnoses:
        return f"AP is {ap:.3f}. The most likely cause: {diagnoses[0].cause}. {diagnoses[0].remedy}"
    if ap < NEAR_ZERO:
        return f"AP is {ap:.3f}: the detections match almost no objects."
    missed = [result for result in measured if result.ap < NEAR_ZERO]
    if missed:
        verb = "is" if len(missed) == 1 else "are"
        return (
            f"{len(missed)} of {len(measured)} classes {verb} not detected (AP below {NEAR_ZERO}): {_listed(missed)}; "
            "check their annotations, or add training images with them."
        )
    if ap_interval is not None and ap_interval.high - ap_interval.low > WIDE_INTERVAL:
        return (
            f"{num_images} images are too few for a precise score: AP is between {ap_interval.low:.3f} and "
            f"{ap_interval.high:.3f} with 95 % confidence."
        )
    points = sorted((result.point.threshold, result.name) for result in measured if result.point)
    if len(points) > 1 and points[-1][0] - points[0][0] >= DIFFERENT_THRESHOLDS and not are_thresholds_stored:
        (low, of_low), (high, of_high) = points[0], points[-1]
        return (
            f"The thresholds differ between classes, from {low:.2f} for {of_low} to {high:.2f} for {of_high}: "
            "--store-thresholds saves them for prediction."
        )
    by_ap = sorted(measured, key=lambda result: result.ap)
    weakest, median = by_ap[0], by_ap[len(by_ap) // 2].ap
    if weakest.ap < WEAK_CLASS * median:
        return (
            f"The weakest class is {weakest.name}: AP {weakest.ap:.3f} with {weakest.num_objects} objects, while half "
            f"of the classes reach {median:.3f}."
        )
    if largest_error is not None and largest_error.delta_ap > 0:
        errors = ERRORS.get(largest_error.name, f"errors of {largest_error.name}")
        return (
            f"AP is {ap:.3f}. Most of AP50 is lost to {errors}: it would be {largest_error.delta_ap:.3f} higher "
            f"without these {largest_error.count} errors."
        )
    return f"AP is {ap:.3f}, and no class falls far behind: the lowest is {weakest.name} with {weakest.ap:.3f}."


def _listed(results: Sequence[ClassResult]) -> str:
    names = ", ".join(result.name for result in results[:MAX_LISTED])
    return names + (", ..." if len(results) > MAX_LISTED else "")
