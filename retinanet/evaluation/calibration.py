"""Calibration: how scores compare with precision, the share of true positives among detections with similar scores.

A detection is a true positive if it matches an object at an IoU of 0.5. Shape letters: D detections, K classes, S bins.
"""

from typing import NamedTuple

import numpy as np
from hotcoco import COCOeval

from retinanet.evaluation.matches import Matches

NUM_BINS = 10  # the usual choice for the expected calibration error
NUM_HISTOGRAM_BINS = 20
_EDGES = np.linspace(0, 1, NUM_HISTOGRAM_BINS + 1)


class CalibrationBin(NamedTuple):
    """Detections with scores from `low` to `high`; the means are 0 if there are none."""

    low: float
    high: float
    mean_score: float
    precision: float  # share of true positives
    count: int


class Calibration(NamedTuple):
    """Difference between scores and precision (Guo et al. 2017, applied to detections)."""

    expected_error: float  # ECE: mean difference between score and precision of the bins, weighted by detections
    largest_error: float  # of any bin
    bins: tuple[CalibrationBin, ...]
    per_class: dict[str, float]  # ECE by class name, without classes that have no detections


class ScoreHistogram(NamedTuple):
    """Number of detections by score and class."""

    edges: np.ndarray  # (S + 1,) float64, 0 to 1
    true_positives: np.ndarray  # (K, S) int64
    false_positives: np.ndarray  # (K, S) int64


def measure_calibration(evaluation: COCOeval) -> Calibration:
    """Compare scores with precision in bins of equal width, as computed by hotcoco.

    Args:
        evaluation: of all detections; see `coco_evaluation`. Scores must be in 0..1.
    """
    result = evaluation.calibration(n_bins=NUM_BINS, iou_threshold=0.5)
    bins = tuple(
        CalibrationBin(
            entry["bin_lower"], entry["bin_upper"], entry["avg_confidence"], entry["avg_accuracy"], entry["count"]
        )
        for entry in result["bins"]
    )
    return Calibration(result["ece"], result["mce"], bins, result["per_category"])


def score_histogram(matches: Matches) -> ScoreHistogram:
    """Count true and false positives by score; scores outside 0..1 count in the first or last bin."""
    bins = _histogram_bins(matches.scores)
    is_true = matches.is_true_positive[0]
    is_false = ~is_true & ~matches.is_ignored[0]
    shape = (matches.num_classes, NUM_HISTOGRAM_BINS)
    cells = matches.labels * NUM_HISTOGRAM_BINS + bins
    true, false = (
        np.bincount(cells[rows], minlength=shape[0] * shape[1]).reshape(shape) for rows in (is_true, is_false)
    )
    return ScoreHistogram(_EDGES, true, false)


def calibrated_scores(matches: Matches) -> np.ndarray:
    """Probability that each detection is a true positive: (D,) float64, strictly between 0 and 1.

    This is the precision of detections with similar scores, over all classes, estimated with Laplace's rule of
    succession: (true positives + 1) / (detections + 2).
    """
    histogram = score_histogram(matches)
    true, false = histogram.true_positives.sum(axis=0), histogram.false_positives.sum(axis=0)
    return ((true + 1) / (true + false + 2))[_histogram_bins(matches.scores)]


def _histogram_bins(scores: np.ndarray) -> np.ndarray:
    """Bin of each score (D,) in the histogram."""
    return np.clip(np.searchsorted(_EDGES, scores, side="right") - 1, 0, NUM_HISTOGRAM_BINS - 1)
