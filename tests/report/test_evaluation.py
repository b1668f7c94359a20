"""The report of an evaluation: the images it shows, and the reasons."""

from retinanet.evaluation.image_errors import LabelError
from retinanet.report.evaluation import PER_GROUP, describe_label_error
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.evaluation_reports import report_of

CAT, DOG, NOWHERE = [0, 0, 20, 10], [40, 30, 20, 10], [0, 35, 20, 10]  # left, top, width, height


def dataset_with(count):
    """Images with a cat and a dog each."""
    boxes = [(0, 0, 20, 10), (40, 30, 60, 40)]
    records = [image_record(f"{number}.png", boxes=boxes, labels=[0, 1], image_id=number) for number in range(count)]
    return dataset_of(records, class_names=("cat", "dog"))


def test_reasons_name_the_errors_of_an_image():
    # Image 0 is right. Image 1 misses the dog, and has a cat where nothing is annotated. In image 2, the dog is
    # detected as a cat. The best F1 of cats is reached at the threshold below all of them.
    dataset = dataset_with(3)
    detections = {
        0: found(CAT, DOG, scores=[0.9, 0.8], labels=[0, 1]),
        1: found(CAT, NOWHERE, scores=[0.9, 0.7], labels=[0, 0]),
        2: found(CAT, DOG, scores=[0.9, 0.875], labels=[0, 0]),
    }
    report = report_of(dataset, detections)
    errors = report.errors
    assert errors.thresholds.tolist()[0] < 0.9
    reasons = {view.index: {reason.group: reason.text for reason in view.reasons} for view in report.images}
    assert reasons[0]["best"] == "F1 1.00, 0 missed, 0 false"
    assert reasons[2]["worst"] == f"F1 {errors.images[2].f1:.2f}, 1 missed, {errors.images[2].false_positives} false"
    shown = {index for index, groups in reasons.items() if "suspected label errors" in groups}
    assert shown == {error.image_index for error in errors.label_errors}


def test_suspicions_in_words():
    dataset = dataset_with(2)
    wrong = LabelError("wrong class", image_index=1, position=0, label=0, score=0.9, object_row=3, iou=0.8)
    assert describe_label_error(dataset, wrong) == "wrong class? annotated as dog, detected as cat with score 0.90"
    missing = LabelError("missing object", image_index=1, position=0, label=0, score=0.61, object_row=None, iou=0.0)
    assert describe_label_error(dataset, missing) == "missing object? detected cat with score 0.61"


def test_each_group_has_a_limit_and_each_image_is_shown_once():
    dataset = dataset_with(40)
    right = found(CAT, DOG, scores=[0.9, 0.8], labels=[0, 1])
    wrong = found(CAT, DOG, scores=[0.85, 0.75], labels=[1, 0])
    report = report_of(dataset, {index: right if index % 2 else wrong for index in range(40)})
    groups = [reason.group for view in report.images for reason in view.reasons]
    assert max(groups.count(group) for group in set(groups)) == PER_GROUP
    assert len({view.index for view in report.images}) == len(report.images)
    assert {view.index % 2 for view in report.images if any(r.group == "best" for r in view.reasons)} == {1}


def test_only_counted_objects_and_detections_are_in_the_counts():
    boxes = [(0, 0, 20, 10), (40, 30, 60, 40)]
    dataset = dataset_of([image_record("a.png", boxes=boxes, is_crowd=[False, True])])
    report = report_of(dataset, {0: found(CAT, scores=[0.5])})
    assert (report.num_objects, report.num_detections) == (1, 1)
