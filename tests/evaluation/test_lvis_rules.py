"""COCO metrics on federated datasets, in whose images some classes were not checked."""

import math
from dataclasses import replace

import numpy as np
import torch

from retinanet.evaluation.coco import METRICS, score_detections
from retinanet.formats.federated import Federated
from retinanet.structures import Detections
from tests.helpers.datasets import dataset_of, image_record

BOX, ELSEWHERE = [10, 10, 30, 30], [100, 100, 130, 130]


def dataset(absent=(), incomplete=()):
    """An object of class 0 in each of two images; class 1 has an object in image 1 only."""
    images = [
        image_record(height=200, width=200, boxes=[BOX], labels=[0], image_id=9),
        image_record(height=200, width=200, boxes=[BOX, ELSEWHERE], labels=[0, 1], image_id=4),
    ]
    complete = dataset_of(images, class_names=("cat", "dog"), category_ids=(7, 3))
    pairs = [np.array(rows, dtype=np.int64).reshape(-1, 2) for rows in (absent, incomplete)]
    return complete, replace(complete, federated=Federated(*pairs))


def detections(*rows):
    """Detections of one image, given as a box, score and label each."""
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels))


RIGHT = {0: [(BOX, 0.5, 0)], 1: [(BOX, 0.5, 0), (ELSEWHERE, 0.5, 1)]}


def with_false(index, row):
    """All objects, and one false detection with a higher score."""
    found = {image: list(rows) for image, rows in RIGHT.items()}
    found[index].insert(0, row)
    return {image: detections(*rows) for image, rows in found.items()}


def test_false_detection_counts_only_where_the_class_is_verified():
    found = with_false(0, (ELSEWHERE, 0.9, 1))
    complete, unknown = dataset()
    _, absent = dataset(absent=[(0, 1)])
    assert score_detections(unknown, found).metrics["AP"] == 1
    # A false detection before the only object: precision 1/2 for the dog, 1 for the cat.
    for data in (complete, absent):
        assert math.isclose(score_detections(data, found).metrics["AP"], 0.75, abs_tol=1e-9)
    assert score_detections(absent, found).per_class == {"dog": 0.5, "cat": 1.0}


def test_false_detection_does_not_count_where_objects_are_not_annotated():
    found = with_false(0, (ELSEWHERE, 0.9, 0))  # the class has an annotated object there, so it was checked
    _, known = dataset()
    _, incomplete = dataset(incomplete=[(0, 0)])
    assert score_detections(known, found).metrics["AP"] < 1
    assert score_detections(incomplete, found).metrics["AP"] == 1


def test_metrics_have_the_usual_names():
    _, data = dataset()
    scores = score_detections(data, {index: detections(*rows) for index, rows in RIGHT.items()})
    assert tuple(scores.metrics) == METRICS
    assert {name for name, value in scores.metrics.items() if value == 1} == {"AP", "AP50", "AP75", "APs"}
    assert math.isnan(scores.metrics["AR100"])
    assert score_detections(data, {}).metrics["AP"] == 0
