"""Matches against those of hotcoco, and against hand-derived ones."""

import numpy as np
import pytest

from retinanet.evaluation.coco import coco_evaluation
from retinanet.evaluation.detection_table import detection_table, ranks
from retinanet.evaluation.matches import match_detections
from retinanet.formats.dataset import Dataset
from tests.helpers.coco_scores import found, truth
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import FAMILIES, federated, random_set

SIZES = [(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)]
BOX, ELSEWHERE = [10, 10, 40, 40], [60, 60, 20, 20]


def assert_equal_to_hotcoco(dataset: Dataset, detections: dict, *, max_detections: int | None = None) -> int:
    """Assert equal matches and equal ignored detections; return the number of matched detections."""
    image_ranks, category_ranks = ranks(dataset.image_ids), ranks(dataset.category_ids)
    table = detection_table(detections, image_ranks)
    evaluation = coco_evaluation(dataset, detections, max_detections=max_detections)
    of_sizes: dict[tuple, dict] = {sizes: {} for sizes in SIZES}
    for entry in filter(None, evaluation.eval_imgs):
        for column, number in enumerate(entry["dtIds"]):
            key = (entry["image_id"], entry["category_id"], table.positions[number - 1])
            of_sizes[tuple(entry["aRng"])][key] = [
                (row[column] - 1 if is_matched[column] else -1, is_ignored[column])
                for row, is_matched, is_ignored in zip(
                    entry["dtMatches"], entry["dtMatched"], entry["dtIgnore"], strict=True
                )
            ]
    num_matched = 0
    for sizes, expected in of_sizes.items():
        matches = match_detections(dataset, detections, max_detections=max_detections, sizes=sizes)
        keys = zip(image_ranks[matches.image_indices], category_ranks[matches.labels], matches.positions, strict=True)
        result = {
            key: list(zip(matches.object_rows[:, row].tolist(), matches.is_ignored[:, row].tolist(), strict=True))
            for row, key in enumerate(keys)
        }
        # hotcoco omits the detections of unverified classes, which are ignored.
        omitted = result.keys() - expected.keys()
        assert not omitted or dataset.federated is not None
        assert {key: result[key] for key in result.keys() - omitted} == expected
        assert all(pair == (-1, True) for key in omitted for pair in result[key])
        num_matched += np.count_nonzero(matches.object_rows >= 0)
    return num_matched


@pytest.mark.parametrize("rules", ["COCO", "LVIS"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_hotcoco_on_random_sets(family, rules):
    num_matched = 0
    for seed in range(1 if family.startswith("at most 100") else 3):
        document, detections = random_set(seed, **FAMILIES[family])
        dataset = dataset_from_coco(document)
        dataset = federated(dataset, seed) if rules == "LVIS" else dataset
        for max_detections in (None, 3):
            num_matched += assert_equal_to_hotcoco(dataset, detections, max_detections=max_detections)
    assert num_matched > 20 or family in ("no objects", "no detections", "few objects")


def test_order_and_origin_of_the_detections():
    document = truth([(1, BOX), (2, ELSEWHERE)], num_classes=2)
    detections = {
        1: found(BOX, ELSEWHERE, BOX, scores=[0.5, 0.5, 0.25], labels=[1, 0, 0]),
        0: found(ELSEWHERE, BOX, scores=[0.5, 0.75], labels=[0, 0]),
    }
    matches = match_detections(dataset_from_coco(document), detections)
    assert matches.labels.tolist() == [0, 0, 0, 0, 1]
    assert matches.scores.tolist() == [0.75, 0.5, 0.5, 0.25, 0.5]
    assert matches.image_indices.tolist() == [0, 0, 1, 1, 1]
    assert matches.positions.tolist() == [1, 0, 1, 2, 0]
    assert matches.object_rows.tolist() == [[0, -1, 1, -1, -1]] * 10
    assert matches.object_images.tolist() == [0, 1] and matches.object_labels.tolist() == [0, 0]
    assert matches.object_counts().tolist() == [2, 0]


def test_detection_takes_the_best_free_object_and_a_crowd_last():
    document = truth([(1, BOX), (1, [10, 10, 40, 38]), (1, BOX)])
    document["annotations"][0]["iscrowd"] = 1
    detections = {0: found(BOX, BOX, BOX, BOX, scores=[0.9, 0.8, 0.7, 0.6])}
    matches = match_detections(dataset_from_coco(document), detections)
    # IoU 1 with the last object, then 0.95 with the second, then any number in the crowd.
    assert matches.object_rows[0].tolist() == [2, 1, 0, 0]
    assert matches.is_ignored[0].tolist() == [False, False, True, True]
    assert matches.is_true_positive[0].tolist() == [True, True, False, False]
    assert matches.is_ignored_object.tolist() == [True, False, False]


def test_objects_and_unmatched_detections_of_other_sizes_are_ignored():
    document = truth([(1, BOX), (1, ELSEWHERE)])  # areas 1600 and 400
    detections = {0: found(BOX, ELSEWHERE, [0, 60, 20, 20], scores=[0.9, 0.8, 0.7])}
    matches = match_detections(dataset_from_coco(document), detections, sizes=(32**2, 96**2))
    assert matches.is_ignored_object.tolist() == [False, True]
    assert matches.object_rows[0].tolist() == [0, 1, -1]
    assert matches.is_ignored[0].tolist() == [False, True, True]


def test_pairs_in_several_chunks_give_the_same_matches(monkeypatch):
    document, detections = random_set(1, crowds=0.2, coarse=True)
    dataset = dataset_from_coco(document)
    expected = match_detections(dataset, detections)
    monkeypatch.setattr("retinanet.evaluation.matches.PAIRS_AT_ONCE", 7)
    result = match_detections(dataset, detections)
    assert np.array_equal(result.object_rows, expected.object_rows) and (expected.object_rows >= 0).any()
