"""Intervals by bootstrap: exact cases, and the share of intervals that contain a known truth."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from retinanet.benchmarks.confidence import bootstrap_trial, coverage, true_scores
from retinanet.benchmarks.simulated_detectors import Detector
from retinanet.evaluation.bootstrap import _interval, bootstrap_scores, resampled_weights
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.matches import match_detections
from tests.helpers.coco_scores import found, truth
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import random_set

BOX = [10, 10, 40, 40]
NORMAL = ndtri((np.arange(20_000) + 0.5) / 20_000)  # quantiles of the standard normal distribution


def test_values_are_the_coco_metrics():
    document, detections = random_set(2)
    dataset = dataset_from_coco(document)
    result = bootstrap_scores(match_detections(dataset, detections), dataset.class_names, num_resamples=50)
    scores = score_detections(dataset, detections)
    for name, interval in result.metrics.items():
        assert interval.value == pytest.approx(scores.metrics[name], abs=1e-12)
        assert interval.low <= interval.high
    assert list(result.metrics) == ["AP", "AP50", "AP75"] and result.num_resamples == 50
    for name, interval in result.per_class.items():
        assert interval.value == pytest.approx(scores.per_class[name], abs=1e-12, nan_ok=True)
    assert result.per_class_ap50.keys() == result.per_class.keys()


def test_exact_detections_give_intervals_of_zero_width():
    document = truth([(1, BOX), (2, BOX), (3, BOX)], num_images=4)
    detections = {index: found(BOX, scores=[0.9]) for index in range(3)}
    matches = match_detections(dataset_from_coco(document), detections)
    result = bootstrap_scores(matches, ("class 1",), num_resamples=20)
    assert result.metrics["AP"] == pytest.approx((1, 1, 1)) and result.per_class["class 1"] == pytest.approx((1, 1, 1))


def test_classes_with_objects_in_fewer_than_two_images_have_no_interval():
    document = truth([(1, BOX), (1, [50, 50, 9, 9])], num_classes=2)
    matches = match_detections(dataset_from_coco(document), {0: found(BOX, scores=[0.9])})
    result = bootstrap_scores(matches, ("one image", "none"), num_resamples=20)
    assert result.per_class["one image"].value == pytest.approx(51 / 101)
    assert math.isnan(result.per_class["one image"].low) and math.isnan(result.per_class["one image"].high)
    assert all(math.isnan(number) for number in result.per_class["none"])


def test_resamples_draw_as_many_images_as_there_are():
    weights = resampled_weights(7, 300, seed=0)
    assert (weights.sum(axis=1) == 7).all()
    # Each image is drawn once on average, with variance 7 * 1/7 * 6/7; the mean of 300 is within 5 standard errors.
    assert np.abs(weights.mean(axis=0) - 1).max() < 5 * math.sqrt(6 / 7 / 300)
    assert np.array_equal(weights, resampled_weights(7, 300, seed=0))
    assert not np.array_equal(weights, resampled_weights(7, 300, seed=1))


def test_interval_corrects_the_bias_of_the_resamples():
    # Resamples from N(b, 1) around the value 0: z0 = -b, so the limits are the quantiles at Phi(-2b -+ z), b - 2b -+ z.
    for bias in (0.0, 0.3):
        interval = _interval(np.append(0.0, NORMAL + bias), num_images=10**6)
        assert interval == pytest.approx((0, -bias - 1.96, -bias + 1.96), abs=0.01)


def test_interval_is_wider_for_few_images():
    # Student's t with 4 degrees of freedom, 2.776, times sqrt(5 / 4).
    assert _interval(np.append(0.0, NORMAL), num_images=5) == pytest.approx((0, -3.104, 3.104), abs=0.02)


def test_resamples_without_the_class_are_excluded():
    assert _interval(np.array([0.5, 0.5, math.nan, 0.5]), num_images=2) == (0.5, 0.5, 0.5)


@pytest.mark.slow
def test_intervals_contain_the_truth_of_simulated_detectors():
    trials = [bootstrap_trial(seed, 100, num_resamples=300) for seed in range(60)]
    covered = coverage(trials, true_scores(Detector()))
    # If the true coverage were 92 %, fewer than 48 of 60 intervals would contain the truth in one of 700 runs.
    assert {name: share for name, share in covered.items() if share < 48 / 60} == {}
    assert np.mean([interval.high - interval.low for trial in trials for interval in [trial["AP"]]]) < 0.2
