"""Oracles against detections whose boxes or classes are actually replaced, and against hand-derived AP."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from retinanet.evaluation.coco import coco_evaluation, score_detections
from retinanet.evaluation.matches import match_detections
from retinanet.evaluation.oracles import MIN_BOX_IOU, ap_with_perfect_boxes, compute_oracles, with_perfect_classes
from retinanet.structures import Detections
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.simulated_detectors import detect, random_dataset

CAT, DOG = [0, 0, 20, 10], [40, 30, 20, 10]
DATASET = dataset_of(
    [image_record(boxes=[(0, 0, 20, 10), (40, 30, 60, 40)], labels=[0, 1])], class_names=("cat", "dog")
)


def with_the_boxes_of_objects(dataset, detections):
    """Give each detection, in order of score, the box of the free object of its class with the highest IoU."""
    replaced = {}
    for index, one in detections.items():
        image, boxes, taken = dataset.image(index), one.boxes.clone(), set()
        ious = box_iou(one.boxes.double(), torch.from_numpy(image.boxes).double())
        for row in range(len(one.scores)):
            free = [
                column
                for column in range(len(image.boxes))
                if image.labels[column] == one.labels[row] and column not in taken and ious[row, column] >= MIN_BOX_IOU
            ]
            if free:
                best = max(free, key=lambda column: ious[row, column])
                taken.add(best)
                boxes[row] = torch.from_numpy(image.boxes)[best]
        replaced[index] = replace(one, boxes=boxes)
    return replaced


@pytest.mark.parametrize("seed", range(5))
def test_perfect_boxes_equal_replaced_boxes(seed):
    random = np.random.default_rng(seed)
    dataset = random_dataset(random, num_images=20, num_classes=2)
    # Evaluation compares the exact boxes of the annotations with float32 corners, which must agree to reach IoU 1.
    dataset = replace(dataset, boxes_xywh=np.round(dataset.boxes_xywh))
    detections = detect(dataset, random, box_error=0.3)
    expected = score_detections(dataset, with_the_boxes_of_objects(dataset, detections)).metrics["AP"]
    assert ap_with_perfect_boxes(dataset, detections) == pytest.approx(expected, abs=1e-12)


def corrected(detections: Detections) -> list[tuple[int, float]]:
    matches = match_detections(DATASET, {0: detections})
    one = with_perfect_classes(DATASET, {0: detections}, matches)[0]
    return list(zip(one.labels.tolist(), one.scores.tolist(), strict=True))


def test_wrong_classes_are_corrected():
    assert corrected(found(CAT, DOG, scores=[0.75, 0.5], labels=[0, 0])) == [(0, 0.75), (1, 0.5)]


def test_wrong_classes_on_a_matched_object_are_dropped():
    assert corrected(found(DOG, DOG, DOG, scores=[0.75, 0.5, 0.25], labels=[0, 1, 0])) == [(1, 0.5)]
    assert corrected(found(DOG, DOG, scores=[0.75, 0.5], labels=[0, 0])) == [(1, 0.75)]


def test_other_errors_keep_their_classes():
    shifted = [50, 30, 20, 10]  # IoU 1 / 3 with the dog
    assert corrected(found(shifted, scores=[0.75], labels=[0])) == [(0, 0.75)]
    assert corrected(found(DOG, DOG, scores=[0.75, 0.5], labels=[1, 1])) == [(1, 0.75), (1, 0.5)]


def test_each_oracle_removes_its_own_error_only():
    random = np.random.default_rng(0)
    dataset = random_dataset(random)

    def oracles(**errors):
        detections = detect(dataset, random, **{"recall": 1, "box_error": 0, "label_error": 0, "num_false": 0} | errors)
        return compute_oracles(
            coco_evaluation(dataset, detections),
            dataset,
            detections,
            match_detections(dataset, detections),
            anchor_ceiling=0.75,
        )

    wrong_boxes, wrong_labels = oracles(box_error=0.15), oracles(label_error=0.5)
    assert wrong_boxes.ap < 0.8 and wrong_boxes.perfect_boxes > 0.95
    assert wrong_boxes.perfect_classes == pytest.approx(wrong_boxes.ap, abs=0.02)
    assert wrong_labels.ap < 0.8 and wrong_labels.perfect_classes > 0.95
    assert wrong_labels.perfect_boxes == pytest.approx(wrong_labels.ap, abs=0.02)
    assert wrong_boxes.anchor_ceiling == 0.75
