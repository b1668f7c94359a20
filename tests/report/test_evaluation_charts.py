"""Charts of an evaluation show the underlying numbers."""

import numpy as np

from retinanet.evaluation.calibration import Calibration, CalibrationBin, ScoreHistogram
from retinanet.evaluation.curves import PrecisionRecall
from retinanet.evaluation.operating_points import OperatingPoint
from retinanet.report.evaluation_charts import (
    MAX_POINTS,
    calibration_chart,
    histogram_chart,
    precision_recall_chart,
    threshold_chart,
)

# Three scores: a true, a false and a true positive, of four objects.
CURVE = PrecisionRecall(
    scores=np.array([0.9, 0.6, 0.4]),
    thresholds=np.array([0.75, 0.5, 0.2]),
    true_positives=np.array([1, 1, 2]),
    false_positives=np.array([0, 1, 1]),
    num_objects=4,
)
POINT = OperatingPoint(threshold=0.2, precision=2 / 3, recall=0.5, f1=4 / 7)


def test_precision_recall_curve():
    line, point = precision_recall_chart("cat", {"IoU": CURVE}, POINT).series
    assert (line.name, line.x, line.y) == ("IoU", [0.25, 0.25, 0.5], [1.0, 0.5, 2 / 3])
    assert (point.x, point.y, point.style) == ([0.5], [2 / 3], "points")
    assert len(precision_recall_chart("cat", {"IoU": CURVE}, None).series) == 1


def test_precision_recall_and_f1_by_threshold():
    precision, recall, f1, point = threshold_chart("cat", CURVE, POINT).series
    assert precision.x == recall.x == f1.x == [0.75, 0.5, 0.2]
    assert (precision.y, recall.y, f1.y) == ([1.0, 0.5, 2 / 3], [0.25, 0.25, 0.5], [2 / 5, 2 / 6, 4 / 7])
    assert (point.name, point.x, point.y) == ("threshold 0.20", [0.2], [4 / 7])


def test_long_curves_keep_their_ends():
    count = 10_000
    ones = np.ones(count, dtype=np.int64)
    scores = np.linspace(1, 0.1, count)
    curve = PrecisionRecall(
        scores=scores, thresholds=scores, true_positives=np.cumsum(ones), false_positives=ones * 0, num_objects=count
    )
    (line,) = precision_recall_chart("cat", {"IoU": curve}, None).series
    assert len(line.x) == MAX_POINTS and (line.x[0], line.x[-1]) == (1 / count, 1.0)


def test_curve_without_detections_is_empty():
    none = np.zeros(0)
    curve = PrecisionRecall(scores=none, thresholds=none, true_positives=none, false_positives=none, num_objects=3)
    assert [one.x for one in threshold_chart("cat", curve, None).series] == [[], [], []]


def test_calibration_skips_empty_bins():
    bins = (CalibrationBin(0, 0.5, 0.0, 0.0, 0), CalibrationBin(0.5, 1, 0.7, 0.9, 10))
    diagonal, points = calibration_chart(Calibration(0.2, 0.2, bins, {})).series
    assert (diagonal.x, diagonal.y, points.x, points.y) == ([0, 1], [0, 1], [0.7], [0.9])


def test_histogram_sums_over_classes_at_the_centres_of_the_bins():
    correct, false = np.array([[1, 2], [3, 4]]), np.array([[5, 0], [0, 1]])
    first, second = histogram_chart(ScoreHistogram(np.array([0, 0.5, 1]), correct, false)).series
    assert (first.name, first.x, first.y) == ("correct", [0.25, 0.75], [4, 6])
    assert (second.name, second.y) == ("false", [5, 1])
