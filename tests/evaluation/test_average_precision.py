"""AP with weighted images against hotcoco, on the dataset and on copies of its images."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.average_precision import average_precision, mean_over_classes
from retinanet.evaluation.coco import coco_evaluation, score_detections
from retinanet.evaluation.detection_table import ranks
from retinanet.evaluation.matches import match_detections
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import FAMILIES, federated, random_set

SIZES = {"AP": (0, 1e10), "APs": (0, 32**2), "APm": (32**2, 96**2), "APl": (96**2, 1e10)}


def unit_weights(dataset: Dataset) -> np.ndarray:
    return np.ones((1, len(dataset)))


def by_hotcoco(dataset: Dataset, detections: dict[int, Detections]) -> np.ndarray:
    """AP of each class at each IoU threshold: (K, T)."""
    precision = coco_evaluation(dataset, detections).eval["precision"][:, :, :, 0, -1]  # (T, recall, class)
    ap = np.where((precision > -1).all(axis=1), precision.mean(axis=1), np.nan).T
    return ap[ranks(dataset.category_ids) - 1]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 2**32 - 1), st.booleans())
def test_unit_weights_give_the_ap_of_hotcoco(family, seed, is_federated):
    document, detections = random_set(seed, **FAMILIES[family])
    dataset = dataset_from_coco(document)
    dataset = federated(dataset, seed) if is_federated else dataset
    result = average_precision(match_detections(dataset, detections), unit_weights(dataset))[0]
    np.testing.assert_allclose(result, by_hotcoco(dataset, detections), rtol=0, atol=1e-12)  # NaN equals NaN


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_mean_over_classes_give_the_metrics(name):
    all_expected = []
    for seed in range(6):
        document, detections = random_set(seed, borders=True)
        dataset = dataset_from_coco(document)
        values = average_precision(match_detections(dataset, detections, sizes=SIZES[name]), unit_weights(dataset))
        all_expected.append(score_detections(dataset, detections).metrics[name])
        assert mean_over_classes(values).mean() == pytest.approx(all_expected[-1], abs=1e-12, nan_ok=True)
    assert any(0 < expected < 1 for expected in all_expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_an_image_of_weight_w_counts_as_w_copies(seed, weights):
    document, detections = random_set(seed, crowds=0.2)
    dataset = dataset_from_coco(document)
    chosen = np.repeat(np.arange(6), weights)
    copies = replace(dataset.subset(chosen), image_ids=tuple(range(len(chosen))))
    expected = by_hotcoco(copies, {new: detections[old] for new, old in enumerate(chosen.tolist())})
    result = average_precision(match_detections(dataset, detections), np.array([weights, [1] * 6]))[0]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


def test_class_without_weighted_objects_is_left_out_of_the_mean():
    values = np.array([[[0.25], [np.nan], [0.75]], [[np.nan], [np.nan], [np.nan]]])
    np.testing.assert_array_equal(mean_over_classes(values), [[0.5], [np.nan]])


def test_weightings_in_several_parts_give_the_same_and_report_progress(monkeypatch):
    document, detections = random_set(1)
    dataset = dataset_from_coco(document)
    matches = match_detections(dataset, detections)
    weights = np.random.default_rng(0).integers(0, 3, (5, 6))
    expected = average_precision(matches, weights)
    calls = []
    monkeypatch.setattr("retinanet.evaluation.average_precision.WEIGHTS_AT_ONCE", 1)
    result = average_precision(matches, weights, progress=lambda done, total: calls.append((done, total)))
    np.testing.assert_array_equal(result, expected)
    assert calls == [(number, 20) for number in range(1, 21)]  # 4 classes times 5 weightings
