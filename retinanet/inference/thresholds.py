"""Score thresholds per class, stored in a checkpoint and applied to detections."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retinanet.structures import Detections

DEFAULT_THRESHOLD = 0.3  # of a class without a stored threshold


def completed(thresholds: Sequence[float | None]) -> tuple[float, ...]:
    """The thresholds, with the default for classes that could not be measured."""
    return tuple(DEFAULT_THRESHOLD if threshold is None else threshold for threshold in thresholds)


def above_thresholds(detections: "Detections", thresholds: Sequence[float]) -> "Detections":
    """The detections whose score is above the threshold of their class.

    With NMS per class, this gives the same detections as NMS of only the boxes above the thresholds, because a lower
    score never suppresses a higher one. Across classes, a box below the threshold of its class may suppress one above.
    `postprocess.max_detections` is applied first.

    Args:
        thresholds: by label, (K,).
    """
    return detections[detections.scores > detections.scores.new_tensor(thresholds)[detections.labels]]
