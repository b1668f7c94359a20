"""Charts of an evaluation: precision and recall of each class, scores, and calibration."""

import numpy as np

from retinanet.evaluation.calibration import Calibration, ScoreHistogram
from retinanet.evaluation.curves import PrecisionRecall
from retinanet.evaluation.operating_points import OperatingPoint
from retinanet.visualization.plots import Chart, Series

MAX_POINTS = 150  # per curve; more are indistinguishable on a screen


def precision_recall_chart(name: str, curves: dict[str, PrecisionRecall], point: OperatingPoint | None) -> Chart:
    """Precision-recall curves of one class at one or more IoU thresholds, which name the curves."""
    series = []
    for text, curve in curves.items():
        rows = _thinned(len(curve.scores))
        series.append(Series(text, curve.recall[rows].tolist(), curve.precision[rows].tolist()))
    if point is not None:
        series.append(Series("operating point", [point.recall], [point.precision], style="points"))
    return Chart(
        f"{name}: precision-recall curve", "recall", "precision", series, x_range=(0, 1), y_range=(0, 1), legend="above"
    )


def threshold_chart(name: str, curve: PrecisionRecall, point: OperatingPoint | None) -> Chart:
    """Precision, recall and F1 of one class against the score threshold."""
    rows = _thinned(len(curve.scores))
    thresholds = curve.thresholds[rows].tolist()
    values = {"precision": curve.precision, "recall": curve.recall, "F1": curve.f1}
    series = [Series(text, thresholds, column[rows].tolist()) for text, column in values.items()]
    if point is not None:
        series.append(Series(f"threshold {point.threshold:.2f}", [point.threshold], [point.f1], style="points"))
    return Chart(
        f"{name}: by score threshold", "score threshold", "", series, x_range=(0, 1), y_range=(0, 1),
        legend="above",
    )  # fmt: skip


def _thinned(count: int) -> np.ndarray:
    """At most `MAX_POINTS` of `count` rows, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(np.int64))


def calibration_chart(calibration: Calibration) -> Chart:
    """Reliability diagram: precision against mean score per bin; calibrated scores lie on the diagonal."""
    bins = [entry for entry in calibration.bins if entry.count]
    series = [
        Series("score = precision", [0.0, 1.0], [0.0, 1.0]),
        Series("detections", [entry.mean_score for entry in bins], [entry.precision for entry in bins], style="points"),
    ]
    return Chart(
        "Calibration", "mean score", "precision at IoU 0.5", series, x_range=(0, 1), y_range=(0, 1), legend="above"
    )


def histogram_chart(histogram: ScoreHistogram) -> Chart:
    """Histogram of the scores of correct and false detections."""
    centres = ((histogram.edges[:-1] + histogram.edges[1:]) / 2).tolist()
    false, correct = histogram.false_positives.sum(axis=0), histogram.true_positives.sum(axis=0)
    series = [
        Series("correct", centres, correct.tolist(), style="bars"),
        Series("false", centres, false.tolist(), style="bars"),
    ]
    return Chart("Scores", "score", "detections (logarithmic)", series, x_range=(0, 1), log_y=True, legend="above")
