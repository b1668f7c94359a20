import pytest

from retinanet.config import MergedClass
from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import annotations_of, box, document, error_of, image, label_by_left_edge, warnings_in

THREE_CLASSES = document(
    [image(1)],
    [box(1, 1, [0, 0, 5, 5], 3), box(2, 1, [1, 0, 5, 5], 5), box(3, 1, [2, 0, 5, 5], 7), box(4, 1, [3, 0, 5, 5], 3)],
)


def test_classes_are_selected_and_reordered(source):
    data = read_dataset((source(THREE_CLASSES),), classes=("dog", "cat"))
    assert data.class_names == ("dog", "cat") and data.category_ids == (7, 3)
    assert label_by_left_edge(data) == {0: 1, 2: 0, 3: 1}
    assert [a["category_id"] for a in annotations_of(data)] == [3, 7, 3]


def test_classes_are_merged(source):
    data = read_dataset((source(THREE_CLASSES),), classes=("cow", MergedClass(name="pet", merge=("dog", "cat"))))
    assert data.class_names == ("cow", "pet")
    assert label_by_left_edge(data) == {0: 1, 1: 0, 2: 1, 3: 1}
    # "pet" is not a category of the file, so none of its ids would be correct.
    assert data.category_ids == (1, 2)
    assert [a["category_id"] for a in annotations_of(data)] == [2, 1, 2, 2]


def test_renamed_class_keeps_the_id_of_its_category(source):
    # The new name is that of another category of the file, whose id must not be used.
    data = read_dataset((source(THREE_CLASSES),), classes=(MergedClass(name="dog", merge=("cat",)), "cow"))
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
         "data.classes: 'cat' is in two classes; an annotation can have only one label"),
        (("cat", "cat"), "data.classes: duplicate class in "),
        (("cow", MergedClass(name="cow", merge=("dog",))), "data.classes: duplicate class in "),
    ],
)  # fmt: skip
def test_invalid_classes_are_rejected(source, classes, message):
    assert error_of(source(THREE_CLASSES), classes=classes).startswith(message)


def test_expected_names_order_the_labels_of_another_file(source):
    # The validation file numbers its categories differently, so they are matched by name.
    renumbered = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "cow"}]
    val = source(document([image(1)], [box(1, 1, [4, 0, 5, 5], 1), box(2, 1, [6, 0, 5, 5], 2)], renumbered), "val")
    data = read_dataset((val,), expected_names=("cat", "cow", "dog"))
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


@pytest.mark.parametrize("classes", [None, ("cat", "cow", "dog", "owl")])
def test_evaluation_file_may_lack_classes(source, caplog, classes):
    """Results use the ids in the file, and new ids for classes that the file lacks."""
    names = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cow"}]
    val = source(document([image(1)], [box(1, 1, [4, 0, 5, 5], 9), box(2, 1, [6, 0, 5, 5], 4)], names), "val")
    data = read_dataset((val,), classes=classes, expected_names=("cat", "cow", "dog", "owl"))
    assert data.class_names == ("cat", "cow", "dog", "owl") and data.category_ids == (10, 4, 9, 11)
    assert label_by_left_edge(data) == {4: 2, 6: 1}
    assert warnings_in(caplog) == [f"{val.annotations}: lacks 2 of 4 categories: cat, owl"]


def test_evaluation_file_without_any_of_the_classes_is_rejected(source):
    message = error_of(source(THREE_CLASSES), classes=("owl",), expected_names=("owl",), key="data.val")
    assert message == "data.val: some.json has none of the categories ['owl']; it has ['cat', 'cow', 'dog']"


def test_merged_class_may_lack_a_member_in_the_evaluation_file(source, caplog):
    val = source(document([image(1)], [box(1, 1, [4, 0, 5, 5], 9)], [{"id": 9, "name": "dog"}]), "val")
    pet = MergedClass(name="pet", merge=("dog", "cat"))
    assert label_by_left_edge(read_dataset((val,), classes=(pet,), expected_names=("pet",))) == {4: 0}
    assert warnings_in(caplog) == [f"{val.annotations}: lacks 1 of 2 categories: cat"]
