import pytest

from retinanet.formats.read import read_dataset
from tests.helpers.coco_files import CATEGORIES, annotations_of, box, document, error_of, image


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": [0, 0, float("nan"), 5]}, "bbox is [0, 0, nan, 5], expected [x, y, width, height]"),
        ({"bbox": [0, 0, float("inf"), 5]}, "bbox is [0, 0, inf, 5], expected"),
        ({"bbox": [0, 0, 10**400, 5]}, "bbox is [0, 0, 1000000000"),
        ({"bbox": [0, 0, 1e308, 5]}, "bbox is [0, 0, 1e+308, 5], expected"),
        ({"bbox": [0, 0, True, 5]}, "bbox is [0, 0, True, 5], expected"),
        ({"bbox": [0, 0, "5", 5]}, "bbox is [0, 0, '5', 5], expected"),
        ({"bbox": [0, 0, None, 5]}, "bbox is [0, 0, None, 5], expected"),
        ({"bbox": [0, 0, 5]}, "bbox is [0, 0, 5], expected"),
        ({"bbox": {"x": 0}}, "bbox is {'x': 0}, expected"),
        ({"bbox": None}, "bbox is None, expected"),
        ({"area": float("nan")}, "area is nan, expected a finite number, or nothing"),
        ({"area": "12"}, "area is '12', expected a finite number, or nothing"),
        ({"iscrowd": "0"}, "iscrowd is '0', expected 0 or 1"),
        ({"iscrowd": 2}, "iscrowd is 2, expected 0 or 1"),
        ({"image_id": ""}, "image_id is '', expected the id of a listed image"),
        ({"category_id": 3.0}, "category_id is 3.0, expected the id of a listed category"),
        ({"image_id": 1.0}, "image_id is 1.0, expected the id of a listed image"),
        ({"id": None}, "id is None, expected an integer"),
        ({"id": "7"}, "id is '7', expected an integer"),
        ({"id": True}, "id is True, expected an integer"),
    ],
)  # fmt: skip
def test_malformed_annotation_is_rejected(source, fields, message):
    content = document([image(1)], [box(1, 1, [0, 0, 5, 5]), box(2, 1, [0, 0, 5, 5]) | fields])
    assert error_of(source(content)).startswith(f"some.json: annotations[1].{message}")


def test_missing_bbox_is_rejected(source):
    content = document([image(1)], [{"id": 1, "image_id": 1, "category_id": 3}])
    assert error_of(source(content)) == (
        "some.json: annotations[0].bbox is missing, expected [x, y, width, height], four finite numbers"
    )


def test_absent_area_and_crowd_flag_have_defaults(source):
    some = source(document([image(1)], [box(1, 1, [0, 0, 5, 4], area=None, iscrowd=None)]))
    (annotation,) = annotations_of(read_dataset((some,)))
    assert (annotation["area"], annotation["iscrowd"]) == (20, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: "),
        (b"{", "is not JSON: "),
        (b"\xff\xd8\xff\xe0JFIF", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b"9" * 5000, "is not JSON: "),
        (b"[]", "is not in COCO format: expected lists images, annotations, categories; found list"),
        (b'{"images": [], "shapes": []}', "is not in COCO format: expected lists images, annotations, categories; "
                                          "found ['images', 'shapes']"),
        (b'{"images": {}, "annotations": [], "categories": []}', "is not in COCO format"),
        (b'{"images": [3], "annotations": [], "categories": []}', "images[0].id is 3, expected an integer"),
        (document([image(1), image(1)]), "images: duplicate id 1; ids must be unique"),
        (document([image(1)], [box(5, 1, [0, 0, 5, 5])] * 2), "annotations: duplicate id 5; ids must be unique"),
        (document([], [], [*CATEGORIES, {"id": 3, "name": "x"}]), "categories: duplicate id 3; ids must be unique"),
        (document([], [], [*CATEGORIES, {"id": 9, "name": "cat"}]),
         "categories are ['cat', 'dog', 'cow']; there must be at least one, and names must be unique"),
        (document([], [], []), "categories are []; there must be at least one, and names must be unique"),
        (document([], [], [{"id": 1, "name": ""}]), "categories[0].name is '', expected a name"),
        (document([image(1)], [box(5, 2, [0, 0, 5, 5])]), "annotation 5 has image_id 2, which is not listed"),
        (document([image(1)], [box(5, 1, [0, 0, 5, 5], category_id=4)]),
         "annotation 5 has category_id 4, which is not listed"),
        (document([image(1)], [box(5, "1", [0, 0, 5, 5])]), "annotation 5 has image_id '1', which is not listed"),
        (document([image("a"), image("a")]), "images: duplicate id 'a'; ids must be unique"),
        (document([image("")]), "images[0].id is '', expected an integer or a text"),
        (document([image(1.5)]), "images[0].id is 1.5, expected an integer or a text"),
        (document([image(1, width=0)]), "images[0].width is 0, expected a number of pixels"),
        (document([image(1, height=10.5)]), "images[0].height is 10.5, expected a number of pixels"),
        (document([image(1, file_name=None)]), "images[0].file_name is None, expected a file name"),
    ],
)  # fmt: skip
def test_file_that_is_not_coco_is_rejected(source, content, message):
    assert error_of(source(content, write_images=False)).startswith(f"some.json: {message}")
