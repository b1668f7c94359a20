"""Precision, recall and F1 of each class at every score threshold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from retinanet.evaluation.matches import Matches


@dataclass(frozen=True, eq=False, kw_only=True)
class PrecisionRecall:
    """Precision and recall of one class at each of its P distinct scores; neither is interpolated.

    Entry i counts the detections with a score of at least `scores[i]`, that is, above `thresholds[i]`. Detections that
    COCO ignores, such as those in crowd regions, are neither true nor false positives.
    """

    scores: np.ndarray  # (P,) float64, highest first
    thresholds: np.ndarray  # (P,) float64, see `_thresholds_below`
    true_positives: np.ndarray  # (P,) int64
    false_positives: np.ndarray  # (P,) int64
    num_objects: int

    @property
    def precision(self) -> np.ndarray:
        """Share of the detections that match an object, (P,)."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        """Share of the objects that are matched, (P,); NaN if there are no objects."""
        if not self.num_objects:
            return np.full(len(self.scores), np.nan)
        return self.true_positives / self.num_objects

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, (P,): 2 TP / (2 TP + FP + FN), where FN counts the missed objects."""
        return 2 * self.true_positives / (self.true_positives + self.false_positives + self.num_objects)


def precision_recall_curves(matches: "Matches", *, min_iou: float = 0.5) -> list[PrecisionRecall]:
    """Compute the curve of each class, by label.

    Args:
        min_iou: smallest IoU at which a detection matches an object, one of `matches.iou_thresholds`.
    """
    at_iou = int(np.argmin(np.abs(matches.iou_thresholds - min_iou)))
    assert np.isclose(matches.iou_thresholds[at_iou], min_iou), min_iou
    counts = ~matches.is_ignored[at_iou]
    labels, scores = matches.labels[counts], matches.scores[counts]
    is_true = matches.object_rows[at_iou, counts] >= 0
    starts = np.searchsorted(labels, np.arange(matches.num_classes + 1))  # detections are sorted by label
    return [
        _curve(scores[start:stop], is_true[start:stop], int(num_objects))
        for start, stop, num_objects in zip(starts[:-1], starts[1:], matches.object_counts(), strict=True)
    ]


def _curve(scores: np.ndarray, is_true: np.ndarray, num_objects: int) -> PrecisionRecall:
    """Curve of one class from the scores of its detections (D,), highest first, and whether each matches (D,)."""
    # Equal scores cannot be separated by a threshold, so they share one point: the last of them.
    last_of_score = np.flatnonzero(np.append(scores[1:] < scores[:-1], [True] * bool(len(scores))))
    true_positives = np.cumsum(is_true, dtype=np.int64)[last_of_score]
    return PrecisionRecall(
        scores=scores[last_of_score],
        thresholds=_thresholds_below(scores[last_of_score]),
        true_positives=true_positives,
        false_positives=last_of_score + 1 - true_positives,
        num_objects=num_objects,
    )


def _thresholds_below(scores: np.ndarray) -> np.ndarray:
    """Numbers that separate each of the distinct scores (P,) from the next lower one, or from 0.

    A detection counts if its score is above the threshold, as in postprocessing. Thresholds lie halfway between scores,
    so that differences in the last digits, as between hardware, do not matter. They are representable in float32, the
    type of scores.
    """
    lower = np.append(scores[1:], [0.0] * bool(len(scores)))
    halfway = ((scores + lower) / 2).astype(np.float32).astype(np.float64)
    return np.where(halfway < scores, halfway, lower)
