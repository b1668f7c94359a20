"""The kind of each false detection, compared with hand-worked cases and the counts of `tide_errors`."""

import collections

import numpy as np
import pytest

from retinanet.evaluation.coco import coco_evaluation
from retinanet.evaluation.matches import match_detections
from retinanet.evaluation.tide import tide_errors
from retinanet.report.error_kinds import error_kinds
from tests.helpers.simulated_detectors import detect, random_dataset

OBJECTS = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], dtype=np.float32)
LABELS = np.array([0, 1])


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        ((0, 0, 10, 4), 0, "localisation"),  # IoU 0.4 with an object of its class
        ((0, 0, 10, 8), 1, "classification"),  # IoU 0.8 with an object of the other class
        ((0, 0, 10, 9), 0, "duplicate"),  # IoU 0.9 with an object of its class, which another detection has
        ((0, 0, 10, 4), 1, "classification and localisation"),  # IoU 0.4 with an object of the other class
        ((0, 0, 10, 0.5), 0, "background"),  # IoU 0.05
        ((20, 20, 30, 30), 0, "background"),
    ],
)
def test_kind_of_one_detection(box, label, kind):
    assert error_kinds(np.array([box], dtype=np.float32), np.array([label]), OBJECTS, LABELS) == [kind]


def test_without_objects_all_is_background():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 9, 9]], dtype=np.float32)
    none = np.zeros((0, 4), dtype=np.float32)
    assert error_kinds(boxes, np.array([0, 1]), none, np.zeros(0, dtype=np.int64)) == ["background"] * 2
    assert error_kinds(none, np.zeros(0, dtype=np.int64), OBJECTS, LABELS) == []


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_those_of_the_whole_dataset(seed):
    random = np.random.default_rng(seed)
    dataset = random_dataset(random)
    detections = detect(dataset, random, box_error=0.15, label_error=0.2)
    matches = match_detections(dataset, detections)
    counts = collections.Counter()
    for index in range(len(dataset)):
        rows = np.flatnonzero((matches.image_indices == index) & (matches.object_rows[0] < 0))
        boxes = detections[index].boxes.numpy()[matches.positions[rows]]
        image = dataset.image(index)
        counts.update(error_kinds(boxes, matches.labels[rows], image.boxes, image.labels))
    kinds = tide_errors(coco_evaluation(dataset, detections)).kinds
    assert counts == {kind.name: kind.count for kind in kinds if kind.name != "missed" and kind.count}
