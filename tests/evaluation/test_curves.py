"""Precision and recall by threshold, against hand-worked values and evaluation at every threshold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.curves import PrecisionRecall, precision_recall_curves
from retinanet.evaluation.matches import match_detections
from tests.helpers.coco_scores import found
from tests.helpers.scored_sets import counts_above, scored_sets, two_images


def test_counts_by_hand():
    """Three objects. By score: a match, a false box, two equal scores of which one matches, and a false box."""
    dataset, detections = two_images()
    (curve,) = precision_recall_curves(match_detections(dataset, detections))
    assert curve.num_objects == 3
    assert curve.scores.tolist() == pytest.approx([0.875, 0.75, 0.5, 0.25])
    assert curve.true_positives.tolist() == [1, 1, 2, 2]
    assert curve.false_positives.tolist() == [0, 1, 2, 3]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 4, 2 / 5])
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    # 2 TP / (detections + objects)
    assert curve.f1.tolist() == pytest.approx([2 / 4, 2 / 5, 4 / 7, 4 / 8])
    assert curve.thresholds.tolist() == [0.8125, 0.625, 0.375, 0.125]  # halfway to the next score, and to 0


def test_min_iou_decides_which_detections_match():
    """The second match has IoU 30 / 40 = 0.75."""
    dataset, detections = two_images()
    matches = match_detections(dataset, detections)
    assert precision_recall_curves(matches, min_iou=0.75)[0].true_positives.tolist() == [1, 1, 2, 2]
    assert precision_recall_curves(matches, min_iou=0.8)[0].true_positives.tolist() == [1, 1, 1, 1]


def test_class_without_objects_or_detections():
    dataset, detections = two_images(num_classes=3)
    detections[0] = found([70, 70, 20, 20], scores=[0.5], labels=[1])
    without_detections, without_objects, with_neither = precision_recall_curves(match_detections(dataset, detections))
    assert without_detections.num_objects == 3 and len(without_objects.scores) == 1
    assert without_objects.num_objects == 0 and math.isnan(without_objects.recall[0])
    assert without_objects.precision.tolist() == [0] and without_objects.f1.tolist() == [0]
    assert len(with_neither.scores) == len(with_neither.thresholds) == len(with_neither.precision) == 0


@settings(max_examples=150, deadline=None)
@given(scored_sets())
def test_every_point_equals_the_counts_when_only_detections_above_its_threshold_are_matched(scored):
    """Brute force: match the detections above each threshold again, without the others."""
    dataset, detections = scored
    for label, curve in enumerate(precision_recall_curves(match_detections(dataset, detections))):
        for point, threshold in enumerate(curve.thresholds):
            expected = counts_above(dataset, detections, label, threshold)
            assert (curve.true_positives[point], curve.false_positives[point]) == expected
        above_all = counts_above(dataset, detections, label, curve.scores[0] if len(curve.scores) else 0)
        assert above_all == (0, 0)


@given(st.lists(st.floats(2**-20, 1, width=32), min_size=1, max_size=8, unique=True))
def test_thresholds_separate_scores_in_float32_too(scores):
    scores = sorted(scores, reverse=True)
    # Neighbours in float32 have no number between them.
    scores = np.array([scores[0], np.nextafter(np.float32(scores[0]), np.float32(0)), *scores[1:]], dtype=np.float32)
    scores = -np.unique(-scores)
    curve = curve_of(scores)
    thresholds = curve.thresholds.astype(np.float32)
    assert (thresholds == curve.thresholds).all()
    above = scores[None, :] > thresholds[:, None]
    np.testing.assert_array_equal(above.sum(axis=1), np.arange(1, len(scores) + 1))


def curve_of(scores: np.ndarray) -> PrecisionRecall:
    """The curve of one image with one detection per score."""
    dataset, _ = two_images()
    boxes = [[5, 5, 10, 10]] * len(scores)
    (curve,) = precision_recall_curves(match_detections(dataset, {0: found(*boxes, scores=scores.tolist())}))
    return curve
