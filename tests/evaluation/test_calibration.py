"""Calibration and histograms of scores, against values derived by hand."""

import numpy as np
import pytest

from retinanet.evaluation.calibration import calibrated_scores, measure_calibration, score_histogram
from retinanet.evaluation.coco import coco_evaluation
from retinanet.evaluation.matches import match_detections
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.simulated_detectors import detect, random_dataset

CAT, DOG, NOWHERE = [0, 0, 20, 10], [40, 30, 20, 10], [0, 35, 20, 10]
DATASET = dataset_of(
    [image_record(boxes=[(0, 0, 20, 10), (40, 30, 60, 40)], labels=[0, 1])], class_names=("cat", "dog")
)
# Two detections scored 0.9..1.0, one of them correct, and a wrong one scored 0.6..0.7. No dog is detected as a dog.
DETECTIONS = {0: found(CAT, NOWHERE, DOG, scores=[0.96875, 0.90625, 0.625], labels=[0, 0, 0])}


def test_expected_error_is_the_mean_over_bins_weighted_by_detections():
    calibration = measure_calibration(coco_evaluation(DATASET, DETECTIONS))
    high, low = calibration.bins[9], calibration.bins[6]
    assert (high.count, high.precision, high.mean_score) == (2, 0.5, 0.9375)
    assert (low.count, low.precision, low.mean_score) == (1, 0, 0.625)
    assert calibration.expected_error == pytest.approx((2 * (0.9375 - 0.5) + 1 * 0.625) / 3)
    assert calibration.largest_error == pytest.approx(0.625)
    assert calibration.per_class == {"cat": pytest.approx(calibration.expected_error)}
    assert sum(entry.count for entry in calibration.bins) == 3


def test_calibrated_scores_have_a_low_expected_error():
    random = np.random.default_rng(0)
    count = 2_000
    scores = random.uniform(0, 1, count)
    is_right = random.random(count) < scores
    dataset = dataset_of([image_record(boxes=[(0, 0, 20, 10)], image_id=number) for number in range(count)])
    detections = {
        index: found(CAT if right else NOWHERE, scores=[score])
        for index, (score, right) in enumerate(zip(scores.tolist(), is_right.tolist(), strict=True))
    }
    # The precision of 200 detections has a standard error of at most 0.036, so the mean of ten is below 0.05.
    assert measure_calibration(coco_evaluation(dataset, detections)).expected_error < 0.05


def test_histogram_separates_true_and_false_positives_by_class():
    histogram = score_histogram(match_detections(DATASET, DETECTIONS))
    assert histogram.true_positives.sum(axis=1).tolist() == [1, 0]
    assert histogram.true_positives[0, 19] == 1
    assert histogram.false_positives[0, [12, 18]].tolist() == [1, 1]
    assert histogram.false_positives.sum() == 2


def test_histogram_counts_scores_of_0_and_1_but_no_ignored_detection():
    dataset = dataset_of([image_record(boxes=[(0, 0, 20, 10), (40, 30, 60, 40)], is_crowd=[False, True])])
    detections = {0: found(CAT, DOG, NOWHERE, scores=[1, 0.5, 0])}
    histogram = score_histogram(match_detections(dataset, detections))
    assert histogram.true_positives[0].nonzero()[0].tolist() == [19]
    assert histogram.false_positives[0].nonzero()[0].tolist() == [0]  # the detection in the crowd region does not count


def test_calibrated_scores_follow_the_rule_of_succession():
    matches = match_detections(DATASET, DETECTIONS)
    # Bins of width 0.05: 1 of 1 correct in 0.95..1, 0 of 1 in 0.9..0.95, and 0 of 1 in 0.6..0.65.
    assert calibrated_scores(matches) == pytest.approx([2 / 3, 1 / 3, 1 / 3])


def test_histogram_holds_every_detection_that_counts():
    random = np.random.default_rng(0)
    dataset = random_dataset(random)
    matches = match_detections(dataset, detect(dataset, random))
    histogram = score_histogram(matches)
    assert histogram.true_positives.sum() == matches.is_true_positive[0].sum()
    assert histogram.true_positives.sum() + histogram.false_positives.sum() == (~matches.is_ignored[0]).sum()
