"""COCO metrics against hand-derived values and pycocotools."""

import copy
import math

import numpy as np
import pytest
import torch

from retinanet.evaluation.coco import METRICS, CocoScores, score_detections
from retinanet.formats.coco.results import coco_results
from retinanet.structures import Detections
from tests.helpers.coco_scores import by_pycocotools, found, truth
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import BORDER_STEP, FAMILIES, random_set

NO_DETECTIONS: dict[int, Detections] = {}


def score(document: dict, detections: dict[int, Detections]) -> CocoScores:
    return score_detections(dataset_from_coco(document), detections)


# ---- expected values derived by hand


def test_exact_boxes_score_one():
    scores = score(truth([(1, [10, 10, 40, 40])]), {0: found([10, 10, 40, 40], scores=[0.9])})
    assert [scores.metrics["AP"], scores.metrics["AP50"], scores.per_class["class 1"]] == pytest.approx([1, 1, 1])


def test_one_of_two_objects_detected():
    # Recall stays at 0.5 with precision 1: of the 101 points 0, 0.01, ..., 1, those up to 0.5 are 51.
    document = truth([(1, [10, 10, 40, 40]), (2, [10, 10, 40, 40])])
    scores = score(document, {0: found([10, 10, 40, 40], scores=[0.9])})
    assert scores.metrics["AP"] == pytest.approx(51 / 101)
    assert scores.metrics["AR100"] == pytest.approx(0.5)


def test_iou_decides_at_which_thresholds_a_box_matches():
    # 40 x 40 against 40 x 30 inside it: IoU 0.75, enough for 0.50, 0.55, ..., 0.75: 6 of 10 thresholds.
    scores = score(truth([(1, [10, 10, 40, 40])]), {0: found([10, 10, 40, 30], scores=[0.9])})
    assert scores.metrics["AP"] == pytest.approx(0.6)


@pytest.mark.parametrize("detections", [NO_DETECTIONS, {0: found(scores=[]), 1: found(scores=[])}])
def test_no_detections_score_zero(detections):
    scores = score(truth([(1, [10, 10, 40, 40])]), detections)
    assert scores.metrics["AP"] == 0
    assert scores.per_class == {"class 1": 0}


def test_no_objects_score_nan():
    scores = score(truth([], num_classes=2), {0: found([10, 10, 40, 40], scores=[0.9])})
    assert math.isnan(scores.metrics["AP"])
    assert all(math.isnan(value) for value in scores.per_class.values())


def test_summary_is_worded_like_pycocotools():
    lines = score(truth([(1, [10, 10, 40, 40])]), NO_DETECTIONS).summary.splitlines()
    assert len(lines) == len(METRICS) == 12
    assert lines[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.000"


def test_mean_is_over_the_classes_that_have_objects():
    document = truth([(1, [10, 10, 40, 40])], num_classes=3)
    detections = {0: found([10, 10, 40, 40], [50, 50, 9, 9], scores=[0.8, 0.9], labels=[0, 2])}
    scores = score(document, detections)
    assert scores.metrics["AP"] == pytest.approx(1) and scores.per_class["class 1"] == pytest.approx(1)
    assert math.isnan(scores.per_class["class 2"]) and math.isnan(scores.per_class["class 3"])


def test_order_of_the_detections_mapping_does_not_matter():
    document, detections = random_set(3, coarse=True, crowds=0.2, gapped=True)
    backwards = dict(reversed(detections.items()))
    assert list(backwards) != list(detections)
    expected, scores = score(document, detections), score(document, backwards)
    np.testing.assert_array_equal(list(scores.metrics.values()), list(expected.metrics.values()))  # NaN equals NaN
    assert scores.per_class == expected.per_class and scores.summary == expected.summary


def test_per_class_scores_are_ordered_by_category_id():
    document = truth([(1, [10, 10, 40, 40])], num_classes=3)
    document["categories"].reverse()
    assert list(score(document, NO_DETECTIONS).per_class) == ["class 1", "class 2", "class 3"]


@pytest.mark.parametrize("ids", [(-5, 2**62), (2**53, 2**53 + 1), (2**80, 3), ("b", "a"), ("2", 10)], ids=str)
def test_any_image_ids_are_accepted(ids):
    document = truth([(1, [10, 10, 40, 40]), (2, [20, 20, 40, 40])])
    for entry in (*document["annotations"], *document["images"]):
        field = "image_id" if "image_id" in entry else "id"
        entry[field] = ids[entry[field] - 1]
    detections = {0: found([10, 10, 40, 40], scores=[0.9]), 1: found([20, 20, 40, 40], scores=[0.9])}
    assert score(document, detections).metrics["AP"] == pytest.approx(1)


# ---- pycocotools as the reference


def assert_equal_to_pycocotools(document: dict, detections: dict[int, Detections]) -> CocoScores:
    """Assert equality to the last bit, of the printed lines too."""
    dataset = dataset_from_coco(document)
    by_id = {dataset.image_ids[index]: of_image for index, of_image in detections.items()}
    results = coco_results(sorted(by_id.items()), dataset.category_ids)
    before = copy.deepcopy((dataset, detections))
    scores = score_detections(dataset, detections)
    for index, of_image in detections.items():
        for field in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(of_image, field), getattr(before[1][index], field))
    for field in ("boxes_xywh", "areas", "labels", "is_crowd"):
        assert np.array_equal(getattr(dataset, field), getattr(before[0], field))
    metrics, per_class, printed = by_pycocotools(document, results)
    assert list(scores.metrics) == list(metrics) and list(scores.per_class) == list(per_class)
    np.testing.assert_array_equal(list(scores.metrics.values()), list(metrics.values()))  # NaN equals NaN
    np.testing.assert_array_equal(list(scores.per_class.values()), list(per_class.values()))
    assert scores.summary == printed.rstrip()
    return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_pycocotools_on_random_sets(family):
    num_valid, distinct = 0, set()
    for seed in range(12):
        scores = assert_equal_to_pycocotools(*random_set(seed, **FAMILIES[family]))
        num_valid += not math.isnan(scores.metrics["AP"])
        distinct.add(scores.metrics["AP"])
    if family == "no objects":
        assert num_valid == 0
    elif family == "no detections":
        assert distinct == {0.0}
    else:
        assert num_valid >= 10 and len(distinct) >= 5 and max(distinct) > 0.01


def test_areas_at_the_borders_are_float32_exact():
    document, detections = random_set(0, borders=True)
    areas = {annotation["area"] for annotation in document["annotations"]}
    areas |= {float(w * h) for d in detections.values() for w, h in (d.boxes[:, 2:] - d.boxes[:, :2]).double().tolist()}
    for side in (32, 96):
        assert {side**2, side * (side - BORDER_STEP), side * (side + BORDER_STEP)} <= areas


def test_nothing_is_printed(capfd, caplog):
    with caplog.at_level("DEBUG"):
        score(truth([(1, [10, 10, 40, 40])]), {0: found([10, 10, 40, 40], scores=[0.9])})
    assert capfd.readouterr() == ("", "")
