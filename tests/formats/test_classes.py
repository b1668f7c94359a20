import pytest

from retinanet.config import MergedClass
from retinanet.formats.coco import read_coco
from tests.helpers.coco_files import box, document, error_of, annotations_of, image, label_by_left_edge

THREE_CLASSES = document(
    [image(1)],
    [box(1, 1, [0, 0, 5, 5], 3), box(2, 1, [1, 0, 5, 5], 5), box(3, 1, [2, 0, 5, 5], 7), box(4, 1, [3, 0, 5, 5], 3)],
)


def test_classes_are_selected_and_reordered(source):
    data = read_coco((source(THREE_CLASSES),), classes=("dog", "cat"))
    assert data.class_names == ("dog", "cat") and data.category_ids == (7, 3)
    assert label_by_left_edge(data) == {0: 1, 2: 0, 3: 1}
    assert [a["category_id"] for a in annotations_of(data)] == [3, 7, 3]


def test_classes_are_merged(source):
    data = read_coco((source(THREE_CLASSES),), classes=("cow", MergedClass(name="pet", merge=("dog", "cat"))))
    assert data.class_names == ("cow", "pet")
    assert label_by_left_edge(data) == {0: 1, 1: 0, 2: 1, 3: 1}
    # "pet" is not a category of the file, so none of its ids would be right.
    assert data.category_ids == (1, 2)
    assert [a["category_id"] for a in annotations_of(data)] == [2, 1, 2, 2]


def test_renamed_class_keeps_the_id_of_its_category(source):
    # The new name is that of another category of the file, whose id must not be used.
    data = read_coco((source(THREE_CLASSES),), classes=(MergedClass(name="dog", merge=("cat",)), "cow"))
    assert data.class_names == ("dog", "cow") and data.category_ids == (3, 5)
    assert label_by_left_edge(data) == {0: 0, 1: 1, 3: 0}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "dgo"), "data.classes: 'dgo' is not a category of some.json; did you mean 'dog'?"),
        (("zebra",), "data.classes: 'zebra' is not a category of some.json; it has ['cat', 'cow', 'dog']"),
        ((MergedClass(name="pet", merge=("cat", "dogg")),),
         "data.classes: 'dogg' is not a category of some.json; did you mean 'dog'?"),
        (("cat", MergedClass(name="pet", merge=("dog", "cat"))),
         "data.classes: 'cat' is in two classes; an annotation can have one label"),
        (("cat", "cat"), "data.classes: duplicate class in "),
        (("cow", MergedClass(name="cow", merge=("dog",))), "data.classes: duplicate class in "),
    ],
)  # fmt: skip
def test_invalid_classes_are_rejected(source, classes, message):
    assert error_of(source(THREE_CLASSES), classes=classes).startswith(message)


def test_expected_names_order_the_labels_of_another_file(source):
    # The validation file numbers its categories differently: names decide.
    renumbered = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "cow"}]
    val = source(document([image(1)], [box(1, 1, [4, 0, 5, 5], 1), box(2, 1, [6, 0, 5, 5], 2)], renumbered), "val")
    data = read_coco((val,), expected_names=("cat", "cow", "dog"))
    assert data.class_names == ("cat", "cow", "dog")
    assert data.category_ids == (2, 3, 1)  # ids of this file, in the order of labels
    assert label_by_left_edge(data) == {4: 2, 6: 0}


def test_expected_names_reject_other_classes(source):
    message = error_of(source(THREE_CLASSES), expected_names=("cat", "horse"), key="data.val")
    assert message == (
        "data.val: the categories of some.json do not match the classes ['cat', 'horse']: missing ['horse'], "
        "unexpected ['cow', 'dog']; select the classes to use with data.classes"
    )
    message = error_of(source(THREE_CLASSES), classes=("dog", "cat"), expected_names=("cat", "dog"), key="data.val")
    assert message == "data.classes: defines ['dog', 'cat'], but the model was trained for ['cat', 'dog']"
