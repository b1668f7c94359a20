"""Causes of a low AP: each planted fault is found, and only that one; detectors without a fault have none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.diagnosis import AnchorFit, Diagnosis, diagnose, needs_explanation
from retinanet.structures import Detections
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.planted_faults import BOX_FAULTS, image_faults, with_box_fault, with_labels
from tests.helpers.simulated_detectors import detect, random_dataset

RANDOM = np.random.default_rng(0)
DATASET = random_dataset(RANDOM)
RIGHT = detect(DATASET, RANDOM)
PERMUTATIONS = {
    "shifted": ([1, 2, 3, 4, 0], "class labels are shifted by 1"),
    "shifted back": ([4, 0, 1, 2, 3], "class labels are shifted by -1"),
    "two exchanged": ([0, 1, 4, 3, 2], "classes are permuted"),
    "all permuted": ([2, 4, 1, 0, 3], "classes are permuted"),
}


def causes(detections: dict[int, Detections], dataset=DATASET, **facts) -> list[Diagnosis]:
    return diagnose(dataset, detections, ap=score_detections(dataset, detections).metrics["AP"], **facts)


def alone(diagnoses: list[Diagnosis]) -> Diagnosis:
    (diagnosis,) = diagnoses
    return diagnosis


def test_low_ap_needs_an_explanation():
    assert needs_explanation(0.04, None) and needs_explanation(0.2, 0.5)
    assert not needs_explanation(0.06, None) and not needs_explanation(0.3, 0.5)
    assert not needs_explanation(math.nan, 0.5)


def test_correct_detections_have_no_fault():
    assert causes(RIGHT) == []
    assert causes(RIGHT, trained_ap=0.7, loss=0.5, anchors=AnchorFit(0.9, 0.8), min_score=0.05) == []


@pytest.mark.parametrize("name", BOX_FAULTS)
def test_misplaced_boxes_are_found(name):
    fault, cause = BOX_FAULTS[name]
    diagnosis = alone(causes(with_box_fault(RIGHT, DATASET, fault)))
    assert diagnosis.cause.startswith(cause)
    assert "AP50, ignoring classes, rises from 0.0" in diagnosis.evidence and "to 0.9" in diagnosis.evidence


@pytest.mark.parametrize("name", image_faults(DATASET))
def test_exchanged_images_are_found(name):
    targets = image_faults(DATASET)[name]
    diagnosis = alone(causes({targets[index]: one for index, one in RIGHT.items()}))
    assert diagnosis.cause == "detections belong to other images"
    assert "rises from 0.0" in diagnosis.evidence


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_permuted_classes_are_found(name):
    new_label, cause = PERMUTATIONS[name]
    diagnosis = alone(causes(with_labels(RIGHT, new_label)))
    assert diagnosis.cause == cause
    assert f"class {new_label[2]} becomes class 2" in diagnosis.evidence


def test_two_faults_are_both_reported():
    fault, cause = BOX_FAULTS["xywh"]
    both = with_labels(with_box_fault(RIGHT, DATASET, fault), PERMUTATIONS["all permuted"][0])
    assert [diagnosis.cause for diagnosis in causes(both)] == [cause, "classes are permuted"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_diverged_training_is_found_from_its_loss_or_its_boxes(bad):
    assert alone(causes(RIGHT, loss=bad)).cause == "the training diverged"
    boxes = RIGHT[0].boxes.clone()
    boxes[0, 2] = bad
    diagnosis = alone(diagnose(DATASET, RIGHT | {0: Detections(boxes, RIGHT[0].scores, RIGHT[0].labels)}, ap=0.5))
    assert diagnosis.cause == "the training diverged"
    assert diagnosis.evidence.startswith(f"1 of {sum(len(one.scores) for one in RIGHT.values())} detections")


def test_scores_below_the_threshold_are_found():
    diagnosis = alone(causes({}, min_score=0.05))
    assert diagnosis.cause == "nearly all scores are below the threshold"
    assert diagnosis.evidence == "0 detections, in 0 of 60 images, exceed postprocess.min_score=0.05"
    few = alone(causes({0: found([0, 0, 9, 9], scores=[0.0625])}))
    assert few.evidence == "1 detections, in 1 of 60 images, exceed the score threshold; the highest score is 0.0625"


def test_anchors_that_match_few_objects_are_found():
    diagnosis = alone(causes({}, anchors=AnchorFit(matched_share=0.125, ceiling=0.1), min_score=0.05))
    assert diagnosis.cause == "anchors match too few objects"
    assert diagnosis.evidence.startswith("12.5% of the objects have a positive anchor")
    assert causes(RIGHT, anchors=AnchorFit(0.125, 0.1)) == []  # AP needs no explanation


def random_boxes(score: float | None) -> dict[int, Detections]:
    """Five boxes at random positions in each image, with equal or different scores."""
    random = np.random.default_rng(0)
    return {
        index: found(
            *random.uniform(10, 60, (5, 4)).tolist(),
            scores=np.sort(random.uniform(0.1, 0.9, 5))[::-1].tolist() if score is None else [score] * 5,
        )
        for index in range(len(DATASET))
    }


def test_constant_scores_are_found():
    assert alone(causes(random_boxes(0.0101))).cause == "scores do not depend on the image"
    assert causes(random_boxes(None)) == []


def test_constant_boxes_are_found():
    varied = random_boxes(None)
    same = {index: Detections(varied[0].boxes, one.scores, one.labels) for index, one in varied.items()}
    assert alone(causes(same)).cause == "boxes do not depend on the image"


def test_a_drop_without_another_cause_is_attributed_to_a_different_input():
    half = {index: one[: len(one.scores) // 4] for index, one in RIGHT.items()}
    ap = score_detections(DATASET, half).metrics["AP"]
    diagnosis = alone(causes(half, trained_ap=2.5 * ap))
    assert diagnosis.cause == "the weights, the data or the preprocessing differ from training"
    assert f"AP was {2.5 * ap:.3f} in training and is {ap:.3f} now" in diagnosis.evidence
    assert causes(half, trained_ap=1.5 * ap) == []  # not far below


def test_a_fault_explains_a_drop_better_than_a_different_input():
    fault, cause = BOX_FAULTS["swapped"]
    assert alone(causes(with_box_fault(RIGHT, DATASET, fault), trained_ap=0.7)).cause == cause


def test_tiny_datasets_prove_nothing():
    empty = dataset_of([image_record(boxes=[])])
    assert diagnose(empty, {0: found([0, 0, 9, 9], scores=[0.5])}, ap=math.nan) == []
    one = dataset_of([image_record(boxes=[(0, 0, 20, 10)])])
    assert diagnose(one, {0: found([0, 0, 40, 20], scores=[0.5])}, ap=0.0) == []  # scaled, but only one object shows it


@pytest.mark.parametrize("errors", [{"box_error": 0.3}, {"label_error": 1}, {"recall": 0.2}, {"num_false": 30}])
def test_weak_detectors_have_no_fault(errors):
    assert causes(detect(DATASET, np.random.default_rng(1), **errors)) == []


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_images=st.sampled_from([5, 20, 60]),
    num_classes=st.sampled_from([1, 2, 20]),
    max_objects=st.sampled_from([1, 5]),
    recall=st.sampled_from([0.2, 0.5, 1.0]),
    box_error=st.sampled_from([0.02, 0.1, 0.2, 0.4]),
    label_error=st.sampled_from([0, 0.5, 0.9, 1]),
    num_false=st.sampled_from([1, 5, 30]),
    same_label=st.booleans(),
)
def test_good_and_weak_detectors_have_no_fault(
    seed, num_images, num_classes, max_objects, recall, box_error, label_error, num_false, same_label
):
    random = np.random.default_rng(seed)
    dataset = random_dataset(random, num_images=num_images, num_classes=num_classes, max_objects=max_objects)
    errors = {"recall": recall, "box_error": box_error, "label_error": label_error, "num_false": num_false}
    detections = detect(dataset, random, **errors)
    detections = with_labels(detections, [0] * num_classes) if same_label else detections
    assert causes(detections, dataset) == []


def test_large_objects_at_similar_positions_do_not_look_like_exchanged_images():
    # Any image's detections fit the objects of any other at an IoU of about 0.5.
    random = np.random.default_rng(0)
    records = [
        image_record(
            f"{number}.jpg", 400, 400, np.array([[0, 0, 300, 300]]) + random.uniform(0, 100, (1, 4)), image_id=number
        )
        for number in range(50)
    ]
    dataset = dataset_of(records)
    for box_error in (0.05, 0.2, 0.4):
        assert causes(detect(dataset, random, box_error=box_error), dataset) == []
