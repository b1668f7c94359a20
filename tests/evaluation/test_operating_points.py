"""Operating points against hand-worked values and a search over all thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.curves import PrecisionRecall, precision_recall_curves
from retinanet.evaluation.matches import match_detections
from retinanet.evaluation.operating_points import (
    OperatingPoint,
    Requirement,
    best_f1,
    for_precision,
    for_recall,
    operating_point,
)
from tests.helpers.coco_scores import found
from tests.helpers.scored_sets import counts_above, scored_sets, two_images


def curve_by_hand():
    """Precision 1, 1/2, 2/4, 2/5; recall 1/3, 1/3, 2/3, 2/3; see test_curves.py."""
    return precision_recall_curves(match_detections(*two_images()))[0]


def test_best_f1_by_hand():
    assert best_f1(curve_by_hand()) == pytest.approx(OperatingPoint(0.375, 1 / 2, 2 / 3, 4 / 7))


def test_required_precision_takes_the_highest_recall_and_then_the_highest_precision():
    assert for_precision(curve_by_hand(), 0.5) == pytest.approx(OperatingPoint(0.375, 1 / 2, 2 / 3, 4 / 7))
    assert for_precision(curve_by_hand(), 0.4).threshold == 0.375  # the last point has the same recall
    assert for_precision(curve_by_hand(), 0.9) == pytest.approx(OperatingPoint(0.8125, 1, 1 / 3, 1 / 2))


def test_required_recall_takes_the_highest_precision():
    assert for_recall(curve_by_hand(), 0.3) == pytest.approx(OperatingPoint(0.8125, 1, 1 / 3, 1 / 2))
    assert for_recall(curve_by_hand(), 0.5) == pytest.approx(OperatingPoint(0.375, 1 / 2, 2 / 3, 4 / 7))
    assert for_recall(curve_by_hand(), 0.7) is None


def test_required_recall_takes_the_highest_recall_among_equal_precisions():
    """1 of 4 objects above 0.85, 2 of 4 above 0.4, without a false detection."""
    curve = PrecisionRecall(
        scores=np.array([0.9, 0.8]),
        thresholds=np.array([0.85, 0.4]),
        true_positives=np.array([1, 2]),
        false_positives=np.array([0, 0]),
        num_objects=4,
    )
    assert for_recall(curve, 0.25) == pytest.approx(OperatingPoint(0.4, 1, 1 / 2, 2 / 3))


def test_highest_threshold_wins_among_equal_f1():
    """F1 is 2 / (1 + 3) if 1 of 1 detection matches, and 4 / (5 + 3) if 2 of 5 match."""
    dataset, detections = two_images()
    detections[0] = found([10, 10, 40, 40], [0, 60, 9, 9], [0, 80, 9, 9], scores=[0.875, 0.75, 0.75])
    (curve,) = precision_recall_curves(match_detections(dataset, detections))
    assert curve.f1.max() == curve.f1[0] == pytest.approx(1 / 2)
    assert best_f1(curve).threshold == pytest.approx(0.8125)


def test_class_without_objects_detections_or_matches_has_no_point():
    dataset, detections = two_images(num_classes=3)
    detections = {0: found([70, 0, 20, 20], [0, 0, 9, 9], scores=[0.5, 0.5], labels=[0, 1])}
    for curve in precision_recall_curves(match_detections(dataset, detections)):
        assert best_f1(curve) is None
        assert for_precision(curve, 0) is None and for_recall(curve, 0) is None


def test_requirement_chooses_the_point():
    curve = curve_by_hand()
    assert operating_point(curve, Requirement()) == best_f1(curve)
    assert operating_point(curve, Requirement(precision=0.9)) == for_precision(curve, 0.9)
    assert operating_point(curve, Requirement(recall=0.3)) == for_recall(curve, 0.3)
    assert str(Requirement()) == "best F1"
    assert str(Requirement(precision=0.9)) == "precision of at least 0.9"
    assert str(Requirement(recall=0.5)) == "recall of at least 0.5"


@settings(max_examples=100, deadline=None)
@given(scored_sets(), st.sampled_from([0.25, 0.5, 2 / 3, 0.75, 1.0]))
def test_no_threshold_is_better(scored, required):
    """Brute force over all thresholds that separate scores of any class, matching the detections again at each."""
    dataset, detections = scored
    thresholds = sorted({0.0, *np.concatenate([d.scores.numpy() for d in detections.values()]).tolist()})
    for label, curve in enumerate(precision_recall_curves(match_detections(dataset, detections))):
        options = []  # precision, recall, F1
        for threshold in thresholds:
            true, false = counts_above(dataset, detections, label, threshold)
            if true and curve.num_objects:
                options.append((true / (true + false), true / curve.num_objects,
                                2 * true / (true + false + curve.num_objects)))  # fmt: skip
        best = max((f1 for _, _, f1 in options), default=None)
        recall = max((r for p, r, _ in options if p >= required), default=None)
        precision = max((p for p, r, _ in options if r >= required), default=None)
        points = best_f1(curve), for_precision(curve, required), for_recall(curve, required)
        assert [point and value for point, value in zip(points, (best, recall, precision), strict=True)] == [
            points[0] and points[0].f1, points[1] and points[1].recall, points[2] and points[2].precision,
        ]  # fmt: skip
        assert [point is None for point in points] == [value is None for value in (best, recall, precision)]
        for point in filter(None, points):
            true, false = counts_above(dataset, detections, label, point.threshold)
            assert (point.precision, point.recall) == (true / (true + false), true / curve.num_objects)
