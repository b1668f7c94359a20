import pytest

from retinanet.config import MergedClass
from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import box, document, image, notes_in, warnings_in


def content(categories, boxes_of=None):
    """A document with one box for each category, or for the given ones."""
    boxes = [box(n, 1, [n, 0, 5, 5], n) for n in (boxes_of or [category["id"] for category in categories])]
    return document([image(1, width=100)], boxes, categories)


def named(*names):
    return [{"id": number, "name": name, "supercategory": "none"} for number, name in enumerate(names, 1)]


def test_names_that_differ_only_in_case_or_whitespace(source, caplog):
    some = source(content(named("square", "ball", "ball ", "Ball")))
    data = read_dataset((some,))
    assert data.class_names == ("square", "ball", "ball ", "Ball")
    assert warnings_in(caplog) == [
        f"{some.annotations}: the categories 'ball', 'ball ', 'Ball' differ only in case or whitespace, and would "
        "become different classes; to train them as one, set "
        'data.classes=[square, {name: ball, merge: [ball, "ball ", Ball]}]'
    ]
    caplog.clear()
    merged = MergedClass(name="ball", merge=("ball", "ball ", "Ball"))
    assert read_dataset((some,), classes=("square", merged)).labels.tolist() == [0, 1, 1, 1]
    assert read_dataset((some,), classes=("ball", "Ball")).labels.tolist() == [0, 1]
    assert warnings_in(caplog) == []


def test_root_category_of_roboflow(source, caplog):
    categories = [{"id": 0, "name": "my project", "supercategory": "none"}]
    categories += [{"id": n, "name": name, "supercategory": "my project"} for n, name in ((1, "square"), (2, "yes"))]
    some = source(content(categories, boxes_of=[1, 2]))
    assert read_dataset((some,)).class_names == ("my project", "square", "yes")
    assert warnings_in(caplog) == [
        f"{some.annotations}: category 'my project' has no objects and is the supercategory of all others; exclude "
        'it with data.classes=[square, "yes"]'
    ]
    caplog.clear()
    read_dataset((some,), classes=("square", "yes"))
    read_dataset((some,), expected_names=("my project", "square", "yes"))  # of a trained model
    read_dataset((source(content(categories, boxes_of=[0, 1, 2]), "used"),))
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("name", ["_background_", "background", "Background", "__background__"])
def test_background_category(source, caplog, name):
    some = source(content(named(name, "square", "ball"), boxes_of=[2, 3]))
    read_dataset((some,))
    assert warnings_in(caplog) == [
        f"{some.annotations}: category {name!r} has no objects and is the background, which is not a class for a "
        "detector; exclude it with data.classes=[square, ball]"
    ]
    caplog.clear()
    read_dataset((source(content(named(name, "square")), "used"),))
    assert warnings_in(caplog) == []


def test_other_categories_without_objects_are_a_note(source, caplog):
    caplog.set_level("INFO", "retinanet.formats.findings")
    some = source(content(named("a", "b", "c", "d", "e"), boxes_of=[1]))
    read_dataset((some,))
    assert notes_in(caplog) == [f"{some.annotations}: 4 of 5 categories have no objects (b; c; d; ...)"]


def test_objects_of_all_sources_count(source, caplog):
    caplog.set_level("INFO", "retinanet.formats.findings")
    first = source(content(named("a", "b"), boxes_of=[1]), "first")
    read_dataset((first, source(content(named("a", "b"), boxes_of=[2]), "second")))
    assert notes_in(caplog) == []


def test_suggestion_for_many_classes_is_short(source, caplog):
    some = source(content(named("background", *(f"class {n}" for n in range(30))), boxes_of=range(2, 32)))
    read_dataset((some,))
    assert warnings_in(caplog)[0].endswith('data.classes=["class 0", "class 1", ..., "class 29"]')
