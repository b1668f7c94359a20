"""TIDE error types: each planted error is the only one found, and random sets agree with the paper's definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.coco import coco_evaluation
from retinanet.evaluation.tide import tide_errors
from retinanet.structures import Detections
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.simulated_detectors import detect, random_dataset
from tests.helpers.tide import tide_by_definition

# Two images, each with an object of class 0 and one of class 1, far apart.
DATASET = dataset_of(
    [image_record(boxes=[(0, 0, 20, 10), (40, 30, 60, 40)], labels=[0, 1], image_id=number) for number in (1, 2)],
    class_names=("cat", "dog"),
)
CAT, DOG, NOWHERE = [0, 0, 20, 10], [40, 30, 20, 10], [0, 35, 20, 10]  # left, top, width, height
RIGHT = [(CAT, 0.9, 0), (DOG, 0.8, 1)]
HALF_AP = (
    51 / 101
)  # AP of a class with 1 of 2 objects found and no false positives: 51 of 101 recall thresholds are reached


def detections_of(*images: list[tuple[list[float], float, int]]) -> dict[int, Detections]:
    """Detections of each image, given as pairs of box, score and label."""
    return {
        index: found(*(box for box, *_ in image), scores=[s for _, s, _ in image], labels=[k for *_, k in image])
        for index, image in enumerate(images)
        if image
    }


# Each image has its two correct detections, except for the planted error in the second image. Derivation of delta AP:
PLANTED = {
    # The dog is detected as a cat that scores above all others: cat has precision 2 / 3 at recall 1, dog recall 1 / 2.
    # If corrected, both have an AP of 1.
    "classification": ([(CAT, 0.9, 0), (DOG, 0.95, 0)], 1 - (2 / 3 + HALF_AP) / 2),
    # IoU 1 / 3 with the dog, in second place: recall 1 / 2 at precision 1, and never more.
    "localisation": ([(CAT, 0.9, 0), ([50, 30, 20, 10], 0.7, 1)], (1 - HALF_AP) / 2),
    # IoU 1 / 3 with the dog, labelled as a cat that scores above all others. The dog is missed as well.
    "classification and localisation": ([(CAT, 0.9, 0), ([50, 30, 20, 10], 0.95, 0)], (1 - 2 / 3) / 2),
    # A second detection of the cat, before the cat of the first image: recall 1 / 2 at precision 1, recall 1 at 2 / 3.
    "duplicate": ([(CAT, 0.97, 0), (CAT, 0.95, 0), (DOG, 0.8, 1)], (1 - (HALF_AP + 50 / 101 * 2 / 3)) / 2),
    # No object there; it scores above all others.
    "background": ([(CAT, 0.9, 0), (DOG, 0.8, 1), (NOWHERE, 0.95, 0)], (1 - 2 / 3) / 2),
    "missed": ([(CAT, 0.9, 0)], (1 - HALF_AP) / 2),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_error_is_the_only_one_found(kind):
    planted, delta_ap = PLANTED[kind]
    errors = tide_errors(coco_evaluation(DATASET, detections_of(RIGHT, planted)))
    found_kinds = {one.name: one for one in errors.kinds if one.count}
    # A detection with both a wrong class and a wrong box cannot be attributed to an object, so that object is missed.
    also = {"missed"} if kind == "classification and localisation" else set()
    assert found_kinds.keys() == {kind} | also
    assert found_kinds[kind].count == 1
    assert found_kinds[kind].delta_ap == pytest.approx(delta_ap, abs=1e-12)
    assert errors.largest.name == kind or also


def test_perfect_detections_have_no_errors():
    errors = tide_errors(coco_evaluation(DATASET, detections_of(RIGHT, RIGHT)))
    assert errors.ap50 == pytest.approx(1)
    assert all(kind.count == 0 and kind.delta_ap == 0 for kind in errors.kinds)
    assert errors.false_positives == errors.false_negatives == 0


def test_without_detections_all_objects_are_missed():
    errors = tide_errors(coco_evaluation(DATASET, {}))
    assert {kind.name: kind.count for kind in errors.kinds if kind.count} == {"missed": 4}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_classes=st.integers(1, 3),
    recall=st.floats(0.3, 1),
    box_error=st.sampled_from([0.02, 0.15, 0.3]),
    num_false=st.sampled_from([0, 2, 6]),
)
def test_equal_to_the_definitions_of_the_paper(seed, num_classes, recall, box_error, num_false):
    random = np.random.default_rng(seed)
    dataset = random_dataset(random, num_images=4, num_classes=num_classes)
    detections = detect(dataset, random, recall=recall, box_error=box_error, label_error=0.3, num_false=num_false)
    errors, expected = tide_errors(coco_evaluation(dataset, detections)), tide_by_definition(dataset, detections)
    assert errors.ap50 == pytest.approx(expected.ap50, abs=1e-9)
    assert [kind.count for kind in errors.kinds] == list(expected.counts.values())
    assert [kind.delta_ap for kind in errors.kinds] == pytest.approx(list(expected.delta_ap.values()), abs=1e-9)
