"""The main conclusion: each one on results constructed for it, and their order of importance."""

import math

import pytest

from retinanet.evaluation.bootstrap import Interval
from retinanet.evaluation.class_results import ClassResult
from retinanet.evaluation.diagnosis import Diagnosis
from retinanet.evaluation.main_finding import main_finding
from retinanet.evaluation.operating_points import OperatingPoint
from retinanet.evaluation.tide import ErrorKind


def result(name: str, ap: float = 0.5, *, num_objects: int = 50, threshold: float | None = 0.4) -> ClassResult:
    point = None if threshold is None else OperatingPoint(threshold, 0.8, 0.8, 0.8)
    return ClassResult(name, num_objects, ap, ap, point)


def finding(*results: ClassResult, **options: object) -> str:
    return main_finding(results, **{"num_images": 30, "num_detections": 100, **options})


def test_no_objects():
    sentence = finding(result("cat", math.nan, num_objects=0, threshold=None))
    assert sentence.startswith("These images contain no objects, so nothing can be measured")


def test_no_detections():
    sentence = finding(result("cat", 0.0, threshold=None), num_detections=0)
    assert sentence.startswith("There are no detections, so AP is 0")


def test_detections_that_match_almost_nothing():
    assert finding(result("cat", 0.004), result("dog", 0.008)).startswith("AP is 0.006: the detections match almost")


def test_class_that_is_not_detected():
    sentence = finding(result("cat"), result("dog", 0.0), result("bird", math.nan, num_objects=0))
    assert sentence.startswith("1 of 2 classes is not detected (AP below 0.01): dog;")


def test_many_classes_that_are_not_detected():
    names = "abcde"
    sentence = finding(result("cat"), *(result(name, 0.0) for name in names))
    assert sentence.startswith("5 of 6 classes are not detected (AP below 0.01): a, b, c, ...;")


def test_too_few_images():
    sentence = finding(result("cat"), ap_interval=Interval(0.5, 0.4, 0.55))
    assert sentence == (
        "30 images are too few for a precise score: AP is between 0.400 and 0.550 with 95 % confidence."
    )
    assert "too few" not in finding(result("cat"), ap_interval=Interval(0.5, 0.46, 0.54))


def test_different_thresholds():
    results = [result("Platelets", threshold=0.31), result("RBC", threshold=0.69), result("WBC", threshold=0.5)]
    assert finding(*results) == (
        "The thresholds differ between classes, from 0.31 for Platelets to 0.69 for RBC: --store-thresholds saves them "
        "for prediction."
    )
    assert "thresholds" not in finding(*results, are_thresholds_stored=True)


def test_weak_class():
    sentence = finding(result("cat", 0.6), result("dog", 0.5), result("bird", 0.2, num_objects=7))
    assert sentence == "The weakest class is bird: AP 0.200 with 7 objects, while half of the classes reach 0.500."


def test_nothing_stands_out():
    sentence = finding(result("cat", 0.6), result("dog", 0.5), result("bird", 0.4, threshold=None))
    assert sentence == "AP is 0.500, and no class falls far behind: the lowest is bird with 0.400."


def test_cause_of_a_low_ap_with_its_remedy():
    diagnosis = Diagnosis("classes are permuted", "AP50 rises", "Check the order of the classes.")
    assert finding(result("cat", 0.02), diagnoses=[diagnosis]) == (
        "AP is 0.020. The most likely cause: classes are permuted. Check the order of the classes."
    )


@pytest.mark.parametrize(("name", "errors"), [("missed", "missed objects"), ("localisation", "errors of localisation")])
def test_largest_kind_of_error(name, errors):
    sentence = finding(result("cat", 0.6), result("dog", 0.5), largest_error=ErrorKind(name, 12, 0.0625))
    assert sentence == (
        f"AP is 0.550. Most of AP50 is lost to {errors}: it would be 0.062 higher without these 12 errors."
    )
    assert "far behind" in finding(result("cat"), largest_error=ErrorKind(name, 0, 0.0))


def test_conclusions_are_in_order_of_importance():
    """Each fault is removed in turn, the most important first."""
    none = result("none", math.nan, num_objects=0, threshold=None)
    missed, weak = result("missed", 0.0, threshold=None), result("weak", 0.1, threshold=0.9)
    usual = [result("cat"), result("dog")]
    wide: dict = {"ap_interval": Interval(0.3, 0.2, 0.4), "largest_error": ErrorKind("missed", 1, 0.1)}
    known = {"diagnoses": [Diagnosis("a fault", "", "")]}
    largest = {"largest_error": wide["largest_error"]}
    sentences = [
        finding(none, num_detections=0, **wide),
        finding(missed, weak, num_detections=0, **wide),
        finding(missed, **wide, **known),
        finding(missed, **wide),
        finding(missed, weak, *usual, **wide),
        finding(weak, *usual, **wide),
        finding(weak, *usual, **largest),
        finding(weak, *usual, are_thresholds_stored=True, **largest),
        finding(*usual, **largest),
        finding(*usual),
    ]
    keys = ["no objects", "no detections", "a fault", "almost no", "not detected", "too few", "differ", "weakest"]
    keys += ["is lost to", "far behind"]
    assert all(key in sentence for key, sentence in zip(keys, sentences, strict=True))


@pytest.mark.parametrize("threshold", [0.4, None])
def test_thresholds_of_a_single_class_do_not_differ(threshold):
    assert "far behind" in finding(result("cat", threshold=threshold))
