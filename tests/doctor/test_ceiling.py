import numpy as np
import pytest

from retinanet.config import PostprocessConfig
from retinanet.doctor.ceiling import Lost, perfect_detections
from retinanet.evaluation.coco import score_detections
from tests.helpers.datasets import dataset_of, image_record

APART = ((0, 0, 20, 20), (40, 0, 60, 20))
# Shifted by 5 of 20 pixels: IoU 15 / 25 = 0.6.
OVERLAPPING = ((0, 0, 20, 20), (5, 0, 25, 20))


def ceiling(dataset, is_learned, **postprocess):
    detections, lost = perfect_detections(dataset, np.array(is_learned), PostprocessConfig(**postprocess))
    return score_detections(dataset, detections), lost


def test_all_objects_learned_gives_ap_1():
    scores, lost = ceiling(dataset_of([image_record(boxes=APART), image_record(boxes=[], image_id=2)]), [True, True])
    assert scores.metrics["AP"] == pytest.approx(1)
    assert lost == Lost(0, 0, 0)


def test_an_object_without_an_anchor_is_missed():
    # Precision is 1 up to a recall of 1/2, so at 51 of COCO's 101 recall levels 0, 0.01, ..., 1.
    scores, lost = ceiling(dataset_of([image_record(boxes=APART)]), [True, False])
    assert scores.metrics["AP"] == pytest.approx(51 / 101)
    assert lost == Lost(unmatched=1, suppressed=0, beyond_limit=0)


def test_ceiling_of_each_class_and_size():
    # 40 x 40 is medium, the others are small; the second class loses one of two small objects.
    image = image_record(boxes=[*APART, (0, 0, 40, 40)], labels=[1, 1, 0])
    scores, _ = ceiling(dataset_of([image], class_names=("cat", "dog")), [True, False, True])
    assert scores.per_class == pytest.approx({"cat": 1, "dog": 51 / 101})
    assert scores.metrics["AP"] == pytest.approx((1 + 51 / 101) / 2)
    assert scores.metrics["APs"] == pytest.approx(51 / 101)
    assert scores.metrics["APm"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "nms_iou", "lost"), [([0, 0], 0.5, 1), ([0, 0], 0.61, 0), ([0, 1], 0.5, 0)], ids=str
)
def test_nms_suppresses_a_close_neighbour_of_the_same_class(labels, nms_iou, lost):
    dataset = dataset_of([image_record(boxes=OVERLAPPING, labels=labels)], class_names=("cat", "dog"))
    scores, found = ceiling(dataset, [True, True], nms_iou=nms_iou)
    assert found == Lost(0, suppressed=lost, beyond_limit=0)
    assert scores.metrics["AP"] == pytest.approx(51 / 101 if lost else 1)


def test_nms_across_classes_suppresses_a_close_neighbour_of_another_class():
    dataset = dataset_of([image_record(boxes=OVERLAPPING, labels=[0, 1])], class_names=("cat", "dog"))
    _, found = ceiling(dataset, [True, True], nms_iou=0.5, nms_across_classes=True)
    assert found == Lost(0, suppressed=1, beyond_limit=0)


def test_detections_beyond_the_limit_are_lost():
    detections, lost = perfect_detections(
        dataset_of([image_record(boxes=APART), image_record(boxes=APART, image_id=2)]),
        np.array([True, True, False, True]),
        PostprocessConfig(max_detections=1),
    )
    assert lost == Lost(unmatched=1, suppressed=0, beyond_limit=1)
    assert [detections[index].boxes.tolist() for index in (0, 1)] == [[list(APART[0])], [list(APART[1])]]


def test_crowd_regions_are_neither_detected_nor_missed():
    image = image_record(boxes=APART, is_crowd=[True, False])
    scores, lost = ceiling(dataset_of([image]), [False, True])
    assert scores.metrics["AP"] == pytest.approx(1)
    assert lost == Lost(0, 0, 0)
