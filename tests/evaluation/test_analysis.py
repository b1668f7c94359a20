"""The analysis of an evaluation agrees with its parts, and can be written as JSON."""

import json
import math

import pytest

from retinanet.evaluation.analysis import LEAST_RESAMPLES, analyse
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.compare import compare_detections
from retinanet.evaluation.diagnosis import Diagnosis
from retinanet.evaluation.matches import match_detections
from retinanet.evaluation.operating_points import Requirement
from retinanet.evaluation.selection import size_range
from tests.helpers.coco_scores import found
from tests.helpers.scored_sets import two_images


@pytest.fixture
def scored():
    """Two classes, of which one has no objects."""
    return two_images(num_classes=2)


def test_results_of_each_class_are_those_of_the_scores(scored):
    scores = score_detections(*scored)
    first, second = analyse(*scored, num_resamples=0).classes
    assert (first.name, first.num_objects, first.ap_interval) == ("class 0", 3, None)
    assert first.ap == pytest.approx(scores.per_class["class 0"], abs=1e-12)
    assert first.ap50 == pytest.approx(scores.metrics["AP50"], abs=1e-12)
    assert first.point.threshold == 0.375  # derived by hand in test_operating_points.py
    assert second.num_objects == 0 and second.point is None and math.isnan(second.ap)


def test_requirement_decides_the_thresholds(scored):
    assert analyse(*scored, num_resamples=0).thresholds == [0.375, None]
    assert analyse(*scored, num_resamples=0, requirement=Requirement(precision=0.9)).thresholds == [0.8125, None]


def test_sizes_restrict_the_objects(scored):
    """The objects are 40 x 40 (twice) and 30 x 30: only the last is small."""
    dataset, detections = scored
    detections[0] = found([60, 60, 30, 30], scores=[0.5])
    small = analyse(dataset, detections, sizes=size_range("small"), num_resamples=0).classes[0]
    assert small.num_objects == 1
    assert small.ap == pytest.approx(score_detections(dataset, detections).metrics["APs"], abs=1e-12)


def test_number_of_counted_detections_is_limited(scored):
    """The match in the second image has a lower score than another detection of its image."""
    limited = analyse(*scored, num_resamples=0, max_detections=1).classes[0]
    assert limited.point.recall == pytest.approx(1 / 3)


def test_intervals_contain_the_scores_and_json_has_all_results(scored):
    dataset, detections = scored
    analysis = analyse(dataset, detections, other=detections, num_resamples=20)
    assert analysis.intervals.num_resamples == 20
    values = json.loads(json.dumps(analysis.as_json()))
    assert [entry["name"] for entry in values["classes"]] == ["class 0", "class 1"]
    assert values["classes"][0]["operating_point"]["threshold"] == 0.375
    assert values["classes"][1]["operating_point"] is None
    low, high = values["intervals"]["AP"]
    assert low <= values["classes"][0]["AP"] <= high
    assert values["comparison"]["difference"] == 0 and values["comparison"]["p"] == 1
    assert values["finding"] == analysis.finding and values["diagnoses"] == []


def test_diagnoses_are_in_the_finding_and_in_json(scored):
    diagnosis = Diagnosis("a fault", "the numbers", "Repair it.")
    analysis = analyse(*scored, num_resamples=0, diagnoses=[diagnosis])
    assert "a fault" in analysis.finding
    assert analysis.as_json()["diagnoses"] == [{"cause": "a fault", "evidence": "the numbers", "remedy": "Repair it."}]


@pytest.mark.parametrize(("asked", "used"), [(0, LEAST_RESAMPLES), (300, 300)])
def test_comparison_has_at_least_as_many_resamples_as_the_intervals(scored, monkeypatch, asked, used):
    """Without intervals (0 resamples), the p-value still needs resamples."""
    dataset, detections = scored
    expected = compare_detections(dataset, *[match_detections(dataset, one) for one in ({}, detections)],
                                  num_resamples=used)  # fmt: skip
    found = analyse(dataset, detections, other={}, num_resamples=asked).comparison
    assert (found.p, found.difference) == (expected.p, expected.difference)
