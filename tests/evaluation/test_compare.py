"""Paired comparisons: exact cases, all permutations by brute force, and the false positive rate of the test."""

import itertools
import math

import numpy as np
import pytest

from retinanet.benchmarks.confidence import BETTER, EQUAL, paired_trial
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.compare import PairedComparison, compare_detections
from retinanet.evaluation.matches import match_detections
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections
from tests.helpers.coco_scores import found, truth
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import random_set

BOX, ELSEWHERE = [10, 10, 40, 40], [60, 60, 20, 20]


def compare(dataset: Dataset, first: dict, second: dict, **arguments: object) -> PairedComparison:
    return compare_detections(dataset, match_detections(dataset, first), match_detections(dataset, second), **arguments)


def test_equal_detections_do_not_differ():
    document, detections = random_set(5, crowds=0.2)
    dataset = dataset_from_coco(document)
    # Rescaling scores changes neither their order nor AP.
    scaled = {n: Detections(d.boxes, d.scores**3 / 10, d.labels) for n, d in detections.items()}
    result = compare(dataset, detections, scaled, num_resamples=50)
    assert result.difference == pytest.approx((0, 0, 0), abs=1e-12) and result.p == 1
    assert result.first == result.second == pytest.approx(score_detections(dataset, detections).metrics["AP"])
    assert result.sentence == "A and B have the same AP, whichever images are swapped."


def test_perfect_detector_is_better_than_one_without_detections():
    dataset = dataset_from_coco(truth([(image, BOX) for image in range(1, 21)], num_images=20))
    every = {index: found(BOX, scores=[0.9]) for index in range(20)}
    result = compare(dataset, {}, every, names=("empty", "exact"), num_resamples=2000)
    assert (result.first, result.second) == pytest.approx((0, 1))
    assert result.p < 0.001  # only 2 of 2^20 permutations differ as much
    # The difference of a permutation is (20 - 2n) / 20, n being binomial, in steps of 0.1: 95 % are within 0.4.
    assert result.difference == pytest.approx((1, 0.6, 1.4), abs=0.02)
    assert result.per_class == {"class 1": result.difference}
    assert result.sentence.startswith("exact is better than empty by 1.000 AP (95 % interval ")
    assert result.sentence.endswith(", p < 0.001).")
    backwards = compare(dataset, every, {}, names=("exact", "empty"), num_resamples=2000)
    assert backwards.sentence == result.sentence and backwards.difference.value == pytest.approx(-1)


def interleaved(dataset: Dataset, seed: int) -> list[dict[int, Detections]]:
    """Two sets of two detections per image, half of them true, whose scores alternate between the sets."""
    random = np.random.default_rng(seed)
    sets = []
    ranks = random.permutation(2 * len(dataset)).reshape(len(dataset), 2)
    for offset in (0.0, 0.004):
        scores = 0.9 - ranks / 100 - offset
        random.shuffle(scores, axis=0)
        boxes = [[BOX if random.random() < 0.5 else ELSEWHERE for _ in range(2)] for _ in range(len(dataset))]
        sets.append({n: found(*boxes[n], scores=scores[n].tolist()) for n in range(len(dataset))})
    return sets


@pytest.mark.parametrize("seed", range(4))
def test_p_and_interval_equal_those_of_all_permutations(seed):
    dataset = dataset_from_coco(truth([(image, BOX) for image in range(1, 7)], num_images=6))
    sets = interleaved(dataset, seed)
    differences = []
    for is_swapped in itertools.product((0, 1), repeat=6):
        swapped = [{n: sets[which ^ flag][n] for n, flag in enumerate(is_swapped)} for which in (0, 1)]
        first, second = (score_detections(dataset, detections).metrics["AP"] for detections in swapped)
        differences.append(second - first)
    sizes = np.abs(differences)
    exact = np.mean(sizes >= sizes[0] - 1e-12)
    result = compare(dataset, *sets, num_resamples=4000)
    assert result.difference.value == pytest.approx(differences[0], abs=1e-12)
    assert result.p == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 4000))
    reach = result.difference.high - result.difference.value
    assert np.mean(sizes < reach - 1e-9) <= 0.95 + 0.015 and np.mean(sizes <= reach + 1e-9) >= 0.95 - 0.015


def test_no_difference_is_described_with_the_smallest_detectable_one():
    dataset = dataset_from_coco(truth([(image, BOX) for image in range(1, 7)], num_images=6))
    result = compare(dataset, *interleaved(dataset, 1), names=("r18", "r50"), num_resamples=500)
    value, low, high = result.difference
    assert result.p > 0.05
    assert result.sentence == (
        f"No difference between r18 and r50 can be shown: r50 scores {value:+.3f} AP (95 % interval {low:.3f} to "
        f"{high:.3f}, p = {result.p:.3f}). With 6 images, a difference below {high - value:.3f} AP would not "
        "be detected."
    )


def test_images_without_objects_leave_ap_undefined():
    result = compare(dataset_from_coco(truth([])), {}, {0: found(BOX, scores=[0.9])}, num_resamples=10)
    assert math.isnan(result.p) and math.isnan(result.difference.value)
    assert result.sentence == "AP is undefined: the images have no objects that count."


@pytest.mark.slow
@pytest.mark.parametrize("pair", EQUAL)
def test_equal_detectors_rarely_differ_significantly(pair):
    p = [paired_trial(seed, 60, EQUAL[pair], num_resamples=200).p for seed in range(60)]
    assert sum(value < 0.05 for value in p) <= 9  # at the 5 % level, this is exceeded once in 1,000 runs
    assert len(set(p)) > 20


@pytest.mark.slow
def test_a_better_detector_is_found():
    results = [paired_trial(seed, 200, BETTER, num_resamples=200) for seed in range(10)]
    assert all(result.p < 0.05 and result.difference.low > 0 for result in results)
