"""COCO files as written by annotation tools: repairs, and messages for rejected files."""

import logging

import numpy as np
import pytest

from retinanet.config import MergedClass
from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import (
    CATEGORIES,
    annotations_of,
    box,
    document,
    error_of,
    errors_of,
    image,
    notes_in,
    warnings_in,
)

FOUR_NUMBERS = "1 annotation(s) with an invalid bbox, expected [x, y, width, height], four finite numbers"
OF_FIRST = "annotation 1 of 1.png, class 'cat'"


@pytest.fixture(autouse=True)
def _log_notes(caplog):
    caplog.set_level(logging.INFO, "retinanet.formats.findings")


# ---- repaired


def clean():
    return document(
        [image(1), image(2)],
        [box(1, 1, [0, 0, 5, 5], 3), box(2, 2, [1, 2, 3, 4], 7), box(3, 2, [2, 2, 3, 4], 5)],
        map(dict, CATEGORIES),
    )


def change(part, **fields):
    """A document in which fields of every entry of one part are changed; functions receive the entry."""
    content = clean()
    for item in content[part]:
        for name, value in fields.items():
            item[name] = value(item) if callable(value) else value
    return content


def without(part, *fields):
    content = clean()
    content[part] = [{name: value for name, value in item.items() if name not in fields} for item in content[part]]
    return content


def corners(bbox):
    x, y, w, h = bbox
    return [x, y, x + w, y, x + w, y + h, x, y + h]


REPAIRED = {
    "float image_id": (change("annotations", image_id=lambda a: float(a["image_id"])), "3 integer(s) are written"),
    "text image_id": (change("annotations", image_id=lambda a: str(a["image_id"])), "3 integer(s) are written"),
    "float category_id": (change("annotations", category_id=lambda a: float(a["category_id"])), "3 integer(s)"),
    "text category_id": (change("annotations", category_id=lambda a: str(a["category_id"])), "(category_id '3'; "),
    "text id of categories": (change("categories", id=lambda c: str(c["id"])), "3 integer(s)"),
    "float id of images": (change("images", id=lambda i: float(i["id"])), "(id 1.0; id 2.0)"),
    "float sizes": (change("images", width=20.0, height="10"), "4 integer(s)"),
    "sizes of -1": (change("images", width=-1, height=-1), "2 image(s) have no valid size; it is read from the image "
                    "files (1.png: width -1, height -1; 2.png: width -1, height -1)"),
    "sizes of 0": (change("images", width=0, height=0), "2 image(s) have no valid size"),
    "fractional sizes": (change("images", width=20.5), "2 image(s) have no valid size"),
    "missing sizes": (without("images", "width"), "1.png: width missing, height 10"),
    "no annotation ids": (without("annotations", "id"), "3 annotation(s) have no integer id; all annotations"),
    "annotation ids are texts": (change("annotations", id=lambda a: f"n{a['id']}"), "3 annotation(s) have no integer"),
    "crowd as text": (change("annotations", iscrowd="0"), None),
    "crowd as bool": (change("annotations", iscrowd=False), None),
    "no crowd": (without("annotations", "iscrowd"), None),
    "area as text": (change("annotations", area="many"), "3 area(s) are not finite numbers; they are computed"),
    "area NaN": (change("annotations", area=float("nan")), "3 area(s) are not finite numbers"),
    "blanks around names": (change("categories", name=lambda c: f" {c['name']} "), "3 category name(s) are used with"),
    "polygons": (change("annotations", segmentation=lambda a: [corners(a["bbox"])], bbox=None), "3 annotation(s) have "
                 f"no bbox; it is computed from their polygons or masks ({OF_FIRST}; "),
    "polygons, bbox []": (change("annotations", segmentation=lambda a: corners(a["bbox"]), bbox=[]), "3 annotation(s)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_harmless_deviation_gives_the_same_dataset_and_one_note(source, caplog, name):
    content, note = REPAIRED[name]
    expected = read_dataset((source(clean(), "clean"),))
    some = source(content, write_images=False)
    data = read_dataset((some.model_copy(update={"images": some.images.replace("some", "clean")}),))
    assert annotations_of(data) == annotations_of(expected)
    assert data.image_ids == expected.image_ids and data.class_names == expected.class_names
    assert np.array_equal(data.sizes, expected.sizes)
    notes = notes_in(caplog)
    assert warnings_in(caplog) == []
    assert len(notes) == (note is not None) and (note is None or note in notes[0]), notes


def test_repeated_annotation_ids_are_numbered_with_a_warning(source, caplog):
    content = clean()
    for item in content["annotations"]:
        item["id"] = 7
    content["annotations"][2]["bbox"] = [2, 2, 0, 4]
    some = source(content)
    assert len(annotations_of(read_dataset((some,)))) == 2
    assert warnings_in(caplog) == [
        f"{some.annotations}: 1 annotation id(s) are repeated; all annotations are numbered from 1 (id 7)",
        f"{some.annotations}: 1 box(es) without area, dropped (annotation 3 of 2.png (20x10), class 'cow': "
        "[2.0, 2.0, 0.0, 4.0])",
    ]


def test_numbers_as_names_become_strings(source):
    categories = [{"id": 1, "name": 1}, {"id": 2, "name": 2.0}, {"id": 3, "name": 2.5}]
    content = document([image(1)], [box(n, 1, [n, 0, 5, 5], n) for n in (1, 2, 3)], categories)
    assert read_dataset((source(content),)).class_names == ("1", "2", "2.5")


def test_category_ids_may_be_strings(source):
    categories = [{"id": "b", "name": "dog"}, {"id": "a", "name": "cat"}]
    content = document([image(1)], [box(1, 1, [0, 0, 5, 5], "a"), box(2, 1, [1, 0, 5, 5], "b")], categories)
    data = read_dataset((source(content),))
    assert data.class_names == ("dog", "cat") and data.category_ids == (1, 2) and data.labels.tolist() == [1, 0]


def test_string_and_number_are_different_image_ids_if_both_are_listed(source):
    content = document([image(1), image("1", file_name="b.png")], [box(1, "1", [0, 0, 5, 5])])
    assert np.diff(read_dataset((source(content),)).box_start).tolist() == [0, 1]
    content = document([image("1"), image("01")], [box(1, 1, [0, 0, 5, 5])])  # both match
    assert "1 annotation(s) with an invalid image_id" in error_of(source(content))


def test_crowd_flag_as_string(source):
    content = document([image(1)], [box(1, 1, [0, 0, 5, 5], iscrowd="1"), box(2, 1, [0, 0, 5, 5], iscrowd=True)])
    assert read_dataset((source(content),)).is_crowd.tolist() == [True, True]


def test_annotation_without_box_and_segmentation_is_dropped_and_counted(source, caplog):
    some = source(document([image(1)], [box(8, 1, []), box(9, 1, None, segmentation=[]), box(7, 1, [0, 0, 5, 5])]))
    assert len(annotations_of(read_dataset((some,)))) == 1
    assert "2 box(es) without area, dropped (annotation 8 of 1.png" in warnings_in(caplog)[0]


# ---- rejected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": [0, 0, float("nan"), 5]}, f"{FOUR_NUMBERS} ({OF_FIRST}: [0, 0, nan, 5])"),
        ({"bbox": [0, 0, float("inf"), 5]}, f"{FOUR_NUMBERS} ({OF_FIRST}: [0, 0, inf, 5])"),
        ({"bbox": [0, 0, 10**400, 5]}, f"{FOUR_NUMBERS} ({OF_FIRST}: [0, 0, 1000000000"),
        ({"bbox": [0, 0, 1e308, 5]}, f"{FOUR_NUMBERS} ({OF_FIRST}: [0, 0, 1e+308, 5])"),
        ({"bbox": [0, 0, True, 5]}, f"{FOUR_NUMBERS} ({OF_FIRST}: [0, 0, True, 5])"),
        ({"bbox": [0, 0, "5", 5]}, f"{FOUR_NUMBERS} ({OF_FIRST}: [0, 0, '5', 5])"),
        ({"bbox": [0, 0, 5]}, f"{FOUR_NUMBERS} ({OF_FIRST}: [0, 0, 5])"),
        ({"bbox": {"x": 0}}, f"{FOUR_NUMBERS} ({OF_FIRST}: {{'x': 0}})"),
        ({"iscrowd": 2}, f"1 annotation(s) with an invalid iscrowd, expected 0 or 1 ({OF_FIRST}: 2)"),
        ({"image_id": ""}, "1 annotation(s) with an invalid image_id, expected the id of a listed image "
                           "(annotation 1, class 'cat': '')"),
        ({"image_id": 2}, "1 annotation(s) with an invalid image_id, expected the id of a listed image "
                          "(annotation 1, class 'cat': 2)"),
        ({"category_id": 4}, "1 annotation(s) with an invalid category_id, expected the id of a listed category "
                             "(annotation 1 of 1.png: 4)"),
        ({"category_id": [3]}, "1 annotation(s) with an invalid category_id, expected the id of a listed category "
                               "(annotation 1 of 1.png: [3])"),
        ({"bbox": None, "segmentation": [[1, 2, 3]]},
         "1 annotation(s) with an invalid segmentation, expected polygons or a mask, since there is no bbox "
         f"({OF_FIRST}: expected polygons as lists of finite numbers, x and y alternating)"),
    ],
)  # fmt: skip
def test_malformed_annotation_is_rejected(source, fields, message):
    content = document([image(1)], [box(1, 1, [0, 0, 5, 5]) | fields, box(2, 1, [0, 0, 5, 5])])
    assert error_of(source(content)).startswith(f"some.json: {message}")


def test_missing_bbox_is_rejected(source):
    content = document([image(1)], [{"id": 1, "image_id": 1, "category_id": 3}])
    assert error_of(source(content)) == f"some.json: {FOUR_NUMBERS} ({OF_FIRST}: missing)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "is not in COCO format: expected lists images, annotations, categories; found list; export"),
        (b'{"images": [], "shapes": []}', "is not in COCO format: expected lists images, annotations, categories; "
                                          "found 'images', 'shapes'; export the annotations in COCO format"),
        (b'{"images": {}, "annotations": [], "categories": []}', "is not in COCO format"),
        (document([image(1), image(1, file_name="b.png")]),
         "1 image id(s) are repeated; ids must be unique (id 1: 1.png and b.png)"),
        (document([image("a"), image("a")]),
         "1 image id(s) are repeated; ids must be unique (id 'a': a.png and a.png)"),
        (document([], [], [*CATEGORIES, {"id": 3, "name": "x"}]),
         "1 category id(s) are repeated; ids must be unique (id 3: 'cat' and 'x')"),
        (document([], [], []), "1 categories with an invalid list, expected at least one category (it is empty)"),
        (document([], [], [{"id": 1, "name": ""}]),
         "1 categories with an invalid name, expected a string (categories[0] has '')"),
        (document([], [], [{"id": None, "name": "x"}]),
         "1 categories with an invalid id, expected an integer ('x' has None)"),
        (document([image("")]), "1 image(s) with an invalid id, expected an integer or a string (.png has '')"),
        (document([image(1.5)]),
         "1 image(s) with an invalid id, expected an integer or a string (1.5.png has 1.5)"),
        (document([image(1, file_name=None)]),
         "1 image(s) with an invalid file_name, expected the name of a file (images[0] has None)"),
        (document([image(1, file_name="\ud800.png")]), "1 image(s) with an invalid file_name"),
    ],
)  # fmt: skip
def test_file_that_is_not_coco_is_rejected(source, content, message):
    assert error_of(source(content, write_images=False)).startswith(f"some.json: {message}")


def test_all_problems_of_a_file_are_reported_at_once(source):
    bad = [box(n, 1, [0, 0, None, 5]) for n in range(5)]
    content = document([image(1), {"id": 2}], [*bad, box(9, 7, [0, 0, 5, 5]), 3])
    of_five = "; ".join(f"annotation {n} of 1.png, class 'cat': [0, 0, None, 5]" for n in range(3))
    assert errors_of(source(content, write_images=False)) == [
        "some.json: 4 problem(s)",
        "1 image(s) with an invalid file_name, expected the name of a file (images[1] has missing)",
        f"5 annotation(s) with an invalid bbox, expected [x, y, width, height], four finite numbers ({of_five}; ...)",
        "1 annotation(s) with an invalid image_id, expected the id of a listed image (annotation 9, class 'cat': 7)",
        "1 annotation(s) with an invalid entry, expected an object (annotations[6] is 3)",
    ]


def test_annotations_of_an_image_without_id_are_not_reported_too(source):
    content = document([image(None, file_name="a.png")], [box(1, 1, [0, 0, 5, 5])])
    assert error_of(source(content, write_images=False)) == (
        "some.json: 1 image(s) with an invalid id, expected an integer or a string (a.png has None)"
    )


# ---- categories with the same name


def test_categories_with_the_same_name_are_reported_and_can_be_merged(source):
    categories = [*CATEGORIES, {"id": 40, "name": "cat"}]
    content = document([image(1)], [box(1, 1, [0, 0, 5, 5], 3), box(2, 1, [1, 0, 5, 5], 40)], categories)
    some = source(content)
    assert error_of(some) == (
        "some.json: categories 3 and 40 are both named 'cat'; to train them as one class, set "
        'data.classes=[cow, dog, {name: cat, merge: [cat, "cat (id 40)"]}]; otherwise rename one of them in some.json'
    )
    assert "are both named" in error_of(some, classes=("cat",))
    merged = read_dataset((some,), classes=("cow", MergedClass(name="cat", merge=("cat", "cat (id 40)"))))
    assert merged.labels.tolist() == [1, 1]
    assert read_dataset((some,), classes=("cow", "dog")).labels.tolist() == []
