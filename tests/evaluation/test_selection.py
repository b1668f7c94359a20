"""Selections of classes, images or object sizes to evaluate."""

import numpy as np
import pytest
import torch

from retinanet.errors import InputError
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.selection import ALL_SIZES, select_classes, select_detections, select_images, size_range
from retinanet.formats.federated import Federated
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record

NAMES = ("cat", "dog", "bird")


def three_classes():
    images = [
        image_record("a/1.jpg", 100, 100, [(10, 10, 50, 50), (60, 60, 90, 90)], labels=[2, 0], image_id=1),
        image_record("a/2.jpg", 100, 100, [], image_id=2),
        image_record("b/1.jpg", 100, 100, [(0, 0, 40, 40), (50, 50, 60, 60)], labels=[1, 2], image_id=3),
    ]
    return dataset_of(images, class_names=NAMES, category_ids=(7, 3, 9))


DETECTIONS = {
    0: found([10, 10, 40, 40], [60, 60, 20, 20], scores=[0.9, 0.8], labels=[2, 0]),
    2: found([0, 0, 40, 30], [50, 50, 9, 9], [5, 5, 9, 9], scores=[0.9, 0.7, 0.6], labels=[1, 2, 2]),
}


def test_chosen_classes_get_labels_in_the_given_order():
    data = select_classes(three_classes(), ["bird", "dog"])
    assert (data.class_names, data.category_ids) == (("bird", "dog"), (9, 3))
    assert data.labels.tolist() == [0, 1, 0] and data.box_start.tolist() == [0, 1, 1, 3]
    assert data.boxes_xywh.tolist() == [[10, 10, 40, 40], [0, 0, 40, 40], [50, 50, 10, 10]]
    detections = select_detections(DETECTIONS, three_classes(), ["bird", "dog"])
    assert [detections[index].labels.tolist() for index in (0, 2)] == [[0], [1, 0, 0]]
    torch.testing.assert_close(detections[2].scores, DETECTIONS[2].scores)


def test_ap_of_chosen_classes_is_that_of_the_whole_evaluation():
    data = three_classes()
    whole = score_detections(data, DETECTIONS)
    part = score_detections(select_classes(data, ["bird", "dog"]), select_detections(DETECTIONS, data, ["bird", "dog"]))
    assert part.per_class == {name: whole.per_class[name] for name in ("dog", "bird")}
    assert part.metrics["AP"] == pytest.approx(np.mean([whole.per_class["bird"], whole.per_class["dog"]]))


def test_verified_labels_follow_the_chosen_classes():
    data = three_classes()
    object.__setattr__(data, "federated", Federated(np.array([[0, 1], [1, 0], [1, 2]]), np.array([[2, 2]])))
    federated = select_classes(data, ["bird", "dog"]).federated
    assert federated.absent.tolist() == [[0, 1], [1, 0]] and federated.incomplete.tolist() == [[2, 0]]


def test_error_for_an_unknown_class_suggests_the_closest_name():
    with pytest.raises(InputError, match="there is no class 'brid'; did you mean 'bird'"):
        select_classes(three_classes(), ["brid"])


@pytest.mark.parametrize(
    ("images", "expected"),
    [("1.jpg", [0, 2]), ("a/1.jpg", [0]), ("b/*", [2]), ("*.jpg", [0, 1, 2]), ("[12].jpg", [0, 1, 2])],
)
def test_images_are_chosen_by_name_path_or_pattern(images, expected):
    assert select_images(three_classes(), images).tolist() == expected


def test_images_are_chosen_by_a_list(tmp_path):
    (tmp_path / "list.txt").write_text("b/1.jpg\n\n2.jpg\n")
    assert select_images(three_classes(), str(tmp_path / "list.txt")).tolist() == [1, 2]
    (tmp_path / "list.txt").write_text("b/1.jpg\nb/3.jpg\n")
    with pytest.raises(InputError, match=r"there is no image 'b/3.jpg'; the dataset has 3 images, such as '1.jpg'"):
        select_images(three_classes(), str(tmp_path / "list.txt"))


def test_listed_name_with_wildcard_characters_is_a_name(tmp_path):
    data = dataset_of([image_record("i[1].jpg", image_id=1), image_record("i1.jpg", image_id=2)])
    (tmp_path / "list.txt").write_text("i[1].jpg\n")
    assert select_images(data, str(tmp_path / "list.txt")).tolist() == [0]


def test_pattern_without_images_is_an_error():
    with pytest.raises(InputError, match=r"no image matches 'c\*'"):
        select_images(three_classes(), "c*")


def test_size_classes_are_those_of_coco():
    assert size_range("small") == (0, 1024) and size_range("medium") == (1024, 9216)
    assert size_range("large") == (9216, 1e10) and size_range(None) == ALL_SIZES
