"""Errors per image, and annotations that look wrong, against values derived by hand."""

import numpy as np
import pytest

from retinanet.evaluation.errors import analyse_errors
from retinanet.evaluation.image_errors import ImageErrors, rank_images, surprises
from retinanet.evaluation.matches import match_detections
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record

CAT, DOG, NOWHERE = [0, 0, 20, 10], [40, 30, 20, 10], [0, 35, 20, 10]
BOXES = [(0, 0, 20, 10), (40, 30, 60, 40)]


def image(index: int, right: int, wrong: int, missed: int, surprise: float = 0.0) -> ImageErrors:
    f1 = 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 1.0
    return ImageErrors(index, right, wrong, missed, f1, surprise)


def test_ranking():
    images = [
        image(0, 0, 0, 0),  # no objects, no detections: neither among the best nor among the worst
        image(1, 5, 0, 0, -1.0),
        image(2, 1, 0, 0, -0.5),
        image(3, 0, 1, 0, 3.0),
        image(4, 0, 4, 2, 1.0),
        image(5, 1, 1, 1, 0.5),
        image(6, 3, 0, 0, 2.0),  # no errors above the thresholds: not among the surprising
    ]
    ranking = rank_images(images)
    assert ranking.worst == (4, 3, 5)  # F1 0 with six errors, 0 with one, 0.5
    assert ranking.best == (1, 6, 2, 5, 4)  # F1 1 with five objects, 1 with three, 1 with one, 0.5, 0
    assert ranking.surprising == (3, 4, 5)
    assert rank_images(images, count=1).worst == (4,)


def test_surprise_is_the_shortfall_of_true_positives_in_standard_deviations():
    # Ten images with one detection scored 0.9 each: nine are correct, so p = (9 + 1) / (10 + 2) = 5 / 6. Image 10 has
    # no detections.
    dataset = dataset_of([image_record(boxes=BOXES[:1], image_id=number) for number in range(11)])
    detections = {index: found(CAT if index else NOWHERE, scores=[0.875]) for index in range(10)}
    deviation = np.sqrt(5 / 6 * 1 / 6)
    result = surprises(match_detections(dataset, detections))
    assert result == pytest.approx([5 / 6 / deviation, *[(5 / 6 - 1) / deviation] * 9, 0])


@pytest.fixture
def report():
    # The ids are not in the order of the images, so hotcoco's numbers equal neither ids nor indices.
    dataset = dataset_of(
        [
            image_record(boxes=BOXES, labels=[0, 1], image_id="z"),
            image_record(boxes=BOXES, labels=[0, 1], image_id="a"),
            image_record(boxes=[], image_id="m"),
        ],
        class_names=("cat", "dog"),
    )
    detections = {
        0: found(CAT, DOG, scores=[0.9, 0.8], labels=[0, 1]),
        # Below the threshold: a cat. Above it: the dog detected as a cat, and a dog where there is no object.
        1: found(DOG, CAT, NOWHERE, scores=[0.95, 0.4, 0.7], labels=[0, 0, 1]),
    }
    matches = match_detections(dataset, detections)
    return analyse_errors(dataset, detections, matches, thresholds=[0.5, 0.5])


def test_images_are_counted_above_the_thresholds(report):
    counts = [(one.true_positives, one.false_positives, one.missed, one.f1) for one in report.images]
    assert counts == [(2, 0, 0, 1.0), (0, 2, 2, 0.0), (0, 0, 0, 1.0)]
    assert [one.image_index for one in report.images] == [0, 1, 2]
    assert [one.num_objects for one in report.images] == [2, 2, 0]
    assert report.ranking.worst == (1,) and report.ranking.best == (0, 1)


def test_label_errors_refer_to_the_detections_and_objects_given(report):
    first, second = report.label_errors
    assert (first.kind, first.image_index, first.position, first.label, first.object_row) == ("wrong class", 1, 0, 0, 3)
    assert first.score == pytest.approx(0.95) and first.iou == pytest.approx(1)
    assert (second.kind, second.image_index, second.position, second.label) == ("missing object", 1, 2, 1)
    assert second.object_row is None


def test_confusion_counts_detections_above_the_thresholds(report):
    assert report.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 0]]


def test_correct_labels_give_no_label_errors():
    dataset = dataset_of([image_record(boxes=BOXES, labels=[0, 1])], class_names=("cat", "dog"))
    detections = {0: found(CAT, DOG, scores=[0.9, 0.8], labels=[0, 1])}
    report = analyse_errors(dataset, detections, match_detections(dataset, detections), thresholds=[0.5, 0.5])
    assert report.label_errors == ()
