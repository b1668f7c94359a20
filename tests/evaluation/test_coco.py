"""COCO metrics against hand-derived values and pycocotools."""

import math

import numpy as np
import pytest

from retinanet.evaluation.coco import METRICS, CocoScores, score_detections
from retinanet.structures import Detections
from tests.helpers.coco_scores import assert_equal_to_pycocotools, found, truth
from tests.helpers.datasets import dataset_from_coco
from tests.helpers.random_detections import BORDER_STEP, FAMILIES, random_set

NO_DETECTIONS: dict[int, Detections] = {}


def score(document: dict, detections: dict[int, Detections]) -> CocoScores:
    return score_detections(dataset_from_coco(document), detections)


# ---- expected values derived by hand


def test_exact_boxes_have_an_ap_of_1():
    scores = score(truth([(1, [10, 10, 40, 40])]), {0: found([10, 10, 40, 40], scores=[0.9])})
    assert [scores.metrics["AP"], scores.metrics["AP50"], scores.per_class["class 1"]] == pytest.approx([1, 1, 1])


def test_one_of_two_objects_detected():
    # Recall stays at 0.5 with precision 1: of the 101 points 0, 0.01, ..., 1, those up to 0.5 are 51.
    document = truth([(1, [10, 10, 40, 40]), (2, [10, 10, 40, 40])])
    scores = score(document, {0: found([10, 10, 40, 40], scores=[0.9])})
    assert scores.metrics["AP"] == pytest.approx(51 / 101)
    assert scores.metrics["AR100"] == pytest.approx(0.5)


def test_box_matches_at_thresholds_up_to_its_iou():
    # 40 x 40 against 40 x 30 inside it: IoU 0.75, enough for 0.50, 0.55, ..., 0.75: 6 of 10 thresholds.
    scores = score(truth([(1, [10, 10, 40, 40])]), {0: found([10, 10, 40, 30], scores=[0.9])})
    assert scores.metrics["AP"] == pytest.approx(0.6)


@pytest.mark.parametrize("detections", [NO_DETECTIONS, {0: found(scores=[]), 1: found(scores=[])}])
def test_ap_without_detections_is_0(detections):
    scores = score(truth([(1, [10, 10, 40, 40])]), detections)
    assert scores.metrics["AP"] == 0
    assert scores.per_class == {"class 1": 0}


def test_ap_without_objects_is_nan():
    scores = score(truth([], num_classes=2), {0: found([10, 10, 40, 40], scores=[0.9])})
    assert math.isnan(scores.metrics["AP"])
    assert all(math.isnan(value) for value in scores.per_class.values())


def test_summary_has_the_format_of_pycocotools():
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


def test_areas_at_the_size_limits_are_exact_in_float32():
    document, detections = random_set(0, borders=True)
    areas = {annotation["area"] for annotation in document["annotations"]}
    areas |= {float(w * h) for d in detections.values() for w, h in (d.boxes[:, 2:] - d.boxes[:, :2]).double().tolist()}
    for side in (32, 96):
        assert {side**2, side * (side - BORDER_STEP), side * (side + BORDER_STEP)} <= areas


def test_nothing_is_printed(capfd, caplog):
    with caplog.at_level("DEBUG"):
        score(truth([(1, [10, 10, 40, 40])]), {0: found([10, 10, 40, 40], scores=[0.9])})
    assert capfd.readouterr() == ("", "")
