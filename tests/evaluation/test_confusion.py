"""Confusion matrices against counts derived by hand."""

from retinanet.evaluation.coco import coco_evaluation
from retinanet.evaluation.confusion import confusion_matrix
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record

BOXES = [(0, 0, 20, 10), (40, 30, 60, 40), (0, 35, 20, 45)]
CAT, DOG, COW, NOWHERE = [0, 0, 20, 10], [40, 30, 20, 10], [0, 35, 20, 10], [42, 0, 20, 10]


def test_rows_are_objects_and_columns_detections_in_the_order_of_the_labels():
    # The order of the category ids is not that of the labels.
    dataset = dataset_of(
        [image_record(boxes=BOXES, labels=[0, 1, 2])], class_names=("cat", "dog", "cow"), category_ids=(30, 20, 10)
    )
    detections = {0: found(CAT, DOG, NOWHERE, scores=[0.9, 0.8, 0.7], labels=[0, 2, 1])}
    assert confusion_matrix(coco_evaluation(dataset, detections), dataset).tolist() == [
        [1, 0, 0, 0],  # the cat is found
        [0, 0, 1, 0],  # the dog is detected as a cow
        [0, 0, 0, 1],  # the cow is missed
        [0, 1, 0, 0],  # a dog is detected where there is no object
    ]


def test_the_higher_score_takes_the_object_whatever_its_class():
    dataset = dataset_of([image_record(boxes=BOXES[:1], labels=[0])], class_names=("cat", "dog"))
    detections = {0: found(CAT, CAT, scores=[0.9, 0.8], labels=[1, 0])}
    matrix = confusion_matrix(coco_evaluation(dataset, detections), dataset)
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_pairs_need_the_minimum_iou():
    dataset = dataset_of([image_record(boxes=BOXES[:1], labels=[0])], class_names=("cat", "dog"))
    detections = {0: found([10, 0, 20, 10], scores=[0.9], labels=[0])}  # IoU 1 / 3
    evaluation = coco_evaluation(dataset, detections)
    assert confusion_matrix(evaluation, dataset)[0].tolist() == [0, 0, 1]
    assert confusion_matrix(evaluation, dataset, min_iou=0.3)[0].tolist() == [1, 0, 0]
