import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet.config import DataSource, MergedClass
from retinanet.config.load import config_from_values
from retinanet.data.build import load_train_data, load_val_data
from retinanet.errors import InputError
from retinanet.formats.coco import load_coco

REPO = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("RETINANET_DATA", REPO.parent / "shared" / "data")) / "bccd"

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 5, "name": "cow"}]  # by id: cat, cow, dog


def image(number, *, width=20, height=10, **fields):
    return {"id": number, "file_name": f"{number}.png", "width": width, "height": height, **fields}


def box(number, image_id, bbox, category_id=3, **fields):
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox, **fields}


def document(images, annotations=(), categories=CATEGORIES):
    return {"images": list(images), "annotations": list(annotations), "categories": list(categories)}


@pytest.fixture
def source(tmp_path):
    """Writes annotations and the images they name, as far as these have a plain name; returns the source."""

    def write(content, name="some", pictures=True):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        file = tmp_path / f"{name}.json"
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        if pictures and isinstance(content, dict):
            for item in content["images"]:
                Image.new("RGB", (item.get("width") or 20, item.get("height") or 10)).save(folder / item["file_name"])
        return DataSource(images=str(folder), annotations=str(file))

    return write


def refusal(*sources, **options):
    """The message of the InputError, without the name of the folder."""
    with pytest.raises(InputError) as caught:
        load_coco(sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{Path(sources[0].annotations).parent}/", "") if sources else message


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# ---- what comes out


def test_ids_with_gaps_become_labels_and_stay_in_results(source):
    content = document(
        [image(40), image(7, width=6, height=8), image(19)],
        [box(90, 7, [1, 2, 3, 4], category_id=7), box(4, 40, [0, 0, 20, 10], category_id=3),
         box(55, 40, [5, 5, 2.5, 2], category_id=5, iscrowd=1, area=3)],
    )  # fmt: skip
    data = load_coco((source(content),))
    assert data.class_names == ("cat", "cow", "dog")  # by id
    assert data.category_ids == (3, 5, 7)
    first, second, third = data.records  # in the order of the file
    assert (first.image_id, second.image_id, third.image_id) == (40, 7, 19)
    assert (second.height, second.width) == (8, 6)
    assert first.boxes.tolist() == [[0, 0, 20, 10], [5, 5, 7.5, 7]] and first.boxes.dtype == np.float32
    assert first.labels.tolist() == [0, 1] and first.labels.dtype == np.int64
    assert first.is_crowd.tolist() == [False, True]
    assert second.boxes.tolist() == [[1, 2, 4, 6]] and second.labels.tolist() == [2]
    assert third.boxes.shape == (0, 4) and third.labels.shape == (0,) and third.is_crowd.shape == (0,)


def test_ground_truth_is_numbered_from_1(source):
    content = document(
        [image(40), image(7)],
        [box(0, 7, [1, 2, 3, 4], category_id=7), box(9, 40, [5, 5, 2.5, 2], category_id=5, iscrowd=1, area=3)],
    )
    truth = load_coco((source(content),)).ground_truth
    assert truth["annotations"] == [
        {"id": 1, "image_id": 40, "category_id": 5, "bbox": [5, 5, 2.5, 2], "area": 3, "iscrowd": 1},
        {"id": 2, "image_id": 7, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
    ]
    assert truth["images"][0] == {"id": 40, "file_name": "40.png", "height": 10, "width": 20}
    assert truth["categories"] == [{"id": 3, "name": "cat"}, {"id": 5, "name": "cow"}, {"id": 7, "name": "dog"}]


def test_empty_images_stay_or_go(source, caplog):
    some = source(document([image(1), image(2), image(3)], [box(1, 2, [0, 0, 5, 5]), box(2, 3, [0, 0, 0, 5])]))
    assert [record.image_id for record in load_coco((some,)).records] == [1, 2, 3]
    caplog.clear()
    data = load_coco((some,), keep_empty=False)
    assert [record.image_id for record in data.records] == [2]
    # What was left out is not expected to be found either.
    assert [i["id"] for i in data.ground_truth["images"]] == [2]
    assert [a["image_id"] for a in data.ground_truth["annotations"]] == [2]
    assert any("2 image(s) without boxes left out (data.keep_empty: false)" in text for text in warnings_in(caplog))


def test_nothing_left_is_refused(source):
    assert refusal(source(document([image(1)])), keep_empty=False, key="data.train") == (
        "data.train: no image is left in some.json; see the reasons above"
    )
    assert "no image is left" in refusal(source(document([])))
    assert refusal(key="data.val") == ("data.val: no data given; set data.val.images=FOLDER data.val.annotations=FILE")


@pytest.mark.parametrize("sizes", [{}, {"width": None, "height": None}, {"width": 20}, {"height": 10, "width": None}])
def test_missing_sizes_are_read_from_the_image(source, sizes):
    item = {"id": 1, "file_name": "1.png", **sizes}
    some = source(document([item], [box(1, 1, [10, 5, 50, 50])]))
    (record,) = load_coco((some,)).records
    assert (record.height, record.width) == (10, 20)
    assert record.boxes.tolist() == [[10, 5, 20, 10]]
    assert "some/1.png: 20 x 10 is 200 pixels, expected at most 199" in refusal(some, max_pixels=199)


def test_missing_sizes_are_those_of_the_image_as_shown(source, tmp_path):
    some = source(document([{"id": 1, "file_name": "1.jpg"}]), pictures=False)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "some" / "1.jpg", exif=exif)
    (record,) = load_coco((some,)).records
    assert (record.height, record.width) == (20, 10)


def test_file_with_byte_order_mark_and_unknown_fields(source):
    content = document([image(1, license=3, coco_url="x")], [box(1, 1, [0, 0, 5, 5], segmentation=[[1, 2]])])
    content["info"] = content["licenses"] = "whatever"
    some = source(content)
    file = Path(some.annotations)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(load_coco((some,)).records[0].boxes) == 1


# ---- boxes that cannot be used

UNUSABLE = {
    "without area, dropped": ([4, 4, 0, 3], [4, 4, 3, 0], [4, 4, 0, 0]),
    "inverted, dropped": ([9, 4, -3, 3], [4, 9, 3, -3], [9, 9, -3, -3]),
    "outside the image, dropped": ([20, 0, 5, 5], [0, 10, 5, 5], [-6, 0, 5, 5], [0, -5, 5, 5], [1e8, 1e8, 9, 9]),
}
CUT = {(-2, 3, 5, 5): [0, 3, 3, 8], (17, 3, 5, 5): [17, 3, 20, 8], (3, -4, 5, 5): [3, 0, 8, 1],
       (3, 8, 5, 5): [3, 8, 8, 10], (-99, -99, 999, 999): [0, 0, 20, 10]}  # fmt: skip


@pytest.mark.parametrize(("kind", "bbox"), [(kind, bbox) for kind, boxes in UNUSABLE.items() for bbox in boxes])
def test_unusable_boxes_are_dropped_and_named(source, caplog, kind, bbox):
    some = source(document([image(1)], [box(8, 1, bbox), box(9, 1, [1, 1, 2, 2])]))
    data = load_coco((some,))
    assert data.records[0].boxes.tolist() == [[1, 1, 3, 3]]
    assert warnings_in(caplog) == [f"{some.annotations}: 1 box(es) {kind} (annotation 8)"]
    assert [a["bbox"] for a in data.ground_truth["annotations"]] == [bbox, [1, 1, 2, 2]]  # still to be found
    assert refusal(some, strict=True) == (
        f"some.json: annotation 8 of image 1 (20x10) has bbox {bbox}: {kind}; expected [x, y, width, height] with an "
        "area, inside the image; correct the file, or set data.strict: false to drop or cut such boxes"
    )


@pytest.mark.parametrize("bbox", CUT)
def test_boxes_that_reach_outside_are_cut(source, caplog, bbox):
    some = source(document([image(1)], [box(8, 1, list(bbox))]))
    data = load_coco((some,))
    assert data.records[0].boxes.tolist() == [CUT[bbox]]
    assert data.ground_truth["annotations"][0]["bbox"] == list(bbox)
    assert warnings_in(caplog) == [f"{some.annotations}: 1 box(es) partly outside the image, cut (annotation 8)"]
    assert "partly outside the image, cut; expected" in refusal(some, strict=True)


def test_a_pixel_outside_is_cut_without_a_word(source, caplog):
    some = source(document([image(1)], [box(8, 1, [-1, -0.5, 22, 11.5])]))
    for strict in (False, True):
        assert load_coco((some,), strict=strict).records[0].boxes.tolist() == [[0, 0, 20, 10]]
    assert warnings_in(caplog) == []


def test_each_kind_is_logged_once(source, caplog):
    annotations = [box(n, 1 + n % 2, [4, 4, 0, 3]) for n in range(10, 17)] + [box(30, 1, [15, 0, 10, 5])]
    some = source(document([image(1), image(2)], annotations))
    load_coco((some,))
    assert warnings_in(caplog) == [
        f"{some.annotations}: 7 box(es) without area, dropped (annotation 10, 12, 14, 16, 11, ...)",
        f"{some.annotations}: 1 box(es) partly outside the image, cut (annotation 30)",
    ]


def test_boxes_of_classes_that_were_not_chosen_are_no_problem(source, caplog):
    some = source(document([image(1)], [box(8, 1, [4, 4, 0, 3], category_id=7), box(9, 1, [1, 1, 2, 2])]))
    data = load_coco((some,), classes=("cat",), strict=True)
    assert len(data.records[0].boxes) == len(data.ground_truth["annotations"]) == 1
    assert warnings_in(caplog) == []


# ---- files that are no COCO


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
        ({"image_id": "1"}, "image_id is '1', expected the id of a listed image"),
        ({"category_id": 3.0}, "category_id is 3.0, expected the id of a listed category"),
        ({"id": None}, "id is None, expected a whole number"),
        ({"id": True}, "id is True, expected a whole number"),
    ],
)  # fmt: skip
def test_malformed_annotation(source, fields, message):
    content = document([image(1)], [box(1, 1, [0, 0, 5, 5]), box(2, 1, [0, 0, 5, 5]) | fields])
    assert refusal(source(content)).startswith(f"some.json: annotations[1].{message}")


def test_missing_bbox(source):
    content = document([image(1)], [{"id": 1, "image_id": 1, "category_id": 3}])
    assert refusal(source(content)) == (
        "some.json: annotations[0].bbox is missing, expected [x, y, width, height], four finite numbers"
    )


def test_absent_area_and_crowd_flag_have_defaults(source):
    some = source(document([image(1)], [box(1, 1, [0, 0, 5, 4], area=None, iscrowd=None)]))
    (annotation,) = load_coco((some,)).ground_truth["annotations"]
    assert (annotation["area"], annotation["iscrowd"]) == (20, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: "),
        (b"{", "is not JSON: "),
        (b"\xff\xd8\xff\xe0JFIF", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b"9" * 5000, "is not JSON: "),
        (b"[]", "is not in COCO form: expected lists images, annotations, categories; found list"),
        (b'{"images": [], "shapes": []}', "is not in COCO form: expected lists images, annotations, categories; "
                                          "found ['images', 'shapes']"),
        (b'{"images": {}, "annotations": [], "categories": []}', "is not in COCO form"),
        (b'{"images": [3], "annotations": [], "categories": []}', "images[0].id is 3, expected a whole number"),
        (document([image(1), image(1)]), "images: id 1 stands twice; ids must be unique"),
        (document([image(1)], [box(5, 1, [0, 0, 5, 5])] * 2), "annotations: id 5 stands twice; ids must be unique"),
        (document([], [], [*CATEGORIES, {"id": 3, "name": "x"}]), "categories: id 3 stands twice; ids must be unique"),
        (document([], [], [*CATEGORIES, {"id": 9, "name": "cat"}]),
         "categories are ['cat', 'dog', 'cow'], expected at least one and every name once"),
        (document([], [], []), "categories are [], expected at least one and every name once"),
        (document([], [], [{"id": 1, "name": ""}]), "categories[0].name is '', expected a name"),
        (document([image(1)], [box(5, 2, [0, 0, 5, 5])]), "annotation 5 has image_id 2, which is not listed"),
        (document([image(1)], [box(5, 1, [0, 0, 5, 5], category_id=4)]),
         "annotation 5 has category_id 4, which is not listed"),
        (document([image("000001")]), "images[0].id is '000001', expected a whole number"),
        (document([image(1, width=0)]), "images[0].width is 0, expected a whole number of pixels"),
        (document([image(1, height=10.5)]), "images[0].height is 10.5, expected a whole number of pixels"),
        (document([image(1, file_name=None)]), "images[0].file_name is None, expected a file name"),
    ],
)  # fmt: skip
def test_file_that_is_no_coco(source, content, message):
    assert refusal(source(content, pictures=False)).startswith(f"some.json: {message}")


# ---- images that are not there


def test_missing_annotation_file(tmp_path):
    gone = DataSource(images=str(tmp_path), annotations=str(tmp_path / "gone.json"))
    assert refusal(gone) == (
        "gone.json: cannot be read: No such file or directory; set data.*.annotations to a COCO file"
    )
    assert "cannot be read: Is a directory" in refusal(DataSource(images="x", annotations=str(tmp_path)))


def test_missing_folder(source):
    some = source(document([image(1)]))
    message = refusal(DataSource(images=some.images + "_gone", annotations=some.annotations), key="data.val")
    assert message.startswith("data.val.images: some_gone is not a folder")


def test_missing_images_are_counted(source):
    some = source(document([image(number) for number in range(1, 9)]))
    for number in (2, 3, 4, 5, 6, 8):
        (Path(some.images) / f"{number}.png").unlink()
    assert refusal(some, key="data.val") == (
        "some.json: 6 of 8 images are not in some, first ['2.png', '3.png', '4.png', '5.png', '6.png']; "
        "correct data.val.images or the file names"
    )


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0b.png", "folder"])
def test_names_that_no_file_can_have(source, name):
    some = source(document([image(1, file_name=name)]), pictures=False)
    (Path(some.images) / "folder").mkdir()
    assert "1 of 1 images are not in" in refusal(some)


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "ABSOLUTE"])
def test_file_names_stay_in_the_folder(source, tmp_path, name):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (20, 10)).save(secret)
    name = name.replace("ABSOLUTE", str(secret))
    some = source(document([image(1, file_name=name)]), pictures=False)
    (Path(some.images) / "a").mkdir()
    assert "leaves the folder" in refusal(some) and "give names inside it" in refusal(some)


def test_images_in_folders_below(source, tmp_path):
    some = source(document([image(1, file_name="a/b..c.png")]), pictures=False)
    (tmp_path / "some" / "a").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "some" / "a" / "b..c.png")
    assert load_coco((some,)).records[0].path == str(tmp_path / "some" / "a" / "b..c.png")


# ---- classes

ALL_THREE = document(
    [image(1)],
    [box(1, 1, [0, 0, 5, 5], 3), box(2, 1, [1, 0, 5, 5], 5), box(3, 1, [2, 0, 5, 5], 7), box(4, 1, [3, 0, 5, 5], 3)],
)


def labels(data):
    """Label of each box by its left edge."""
    return {int(x): int(label) for r in data.records for x, label in zip(r.boxes[:, 0], r.labels, strict=True)}


def test_classes_are_chosen_and_reordered(source):
    data = load_coco((source(ALL_THREE),), classes=("dog", "cat"))
    assert data.class_names == ("dog", "cat") and data.category_ids == (7, 3)
    assert labels(data) == {0: 1, 2: 0, 3: 1}
    assert [a["category_id"] for a in data.ground_truth["annotations"]] == [3, 7, 3]
    assert data.ground_truth["categories"] == [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def test_classes_are_merged(source):
    data = load_coco((source(ALL_THREE),), classes=("cow", MergedClass(name="pet", merge=("dog", "cat"))))
    assert data.class_names == ("cow", "pet")
    assert labels(data) == {0: 1, 1: 0, 2: 1, 3: 1}
    # "pet" is no category of the file, so no id of the file would be right.
    assert data.category_ids == (1, 2)
    assert [a["category_id"] for a in data.ground_truth["annotations"]] == [2, 1, 2, 2]


def test_renamed_class_keeps_the_id_of_its_category(source):
    # A new name that another category of the file has must not borrow that one's id.
    data = load_coco((source(ALL_THREE),), classes=(MergedClass(name="dog", merge=("cat",)), "cow"))
    assert data.class_names == ("dog", "cow") and data.category_ids == (3, 5)
    assert labels(data) == {0: 0, 1: 1, 3: 0}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "dgo"), "data.classes: 'dgo' is no category of some.json; did you mean 'dog'?"),
        (("zebra",), "data.classes: 'zebra' is no category of some.json; it has ['cat', 'cow', 'dog']"),
        ((MergedClass(name="pet", merge=("cat", "dogg")),),
         "data.classes: 'dogg' is no category of some.json; did you mean 'dog'?"),
        (("cat", MergedClass(name="pet", merge=("dog", "cat"))),
         "data.classes: 'cat' stands in two classes; an annotation can have one label"),
        (("cat", "cat"), "data.classes: names a class twice: "),
        (("cow", MergedClass(name="cow", merge=("dog",))), "data.classes: names a class twice: "),
    ],
)  # fmt: skip
def test_wrong_classes(source, classes, message):
    assert refusal(source(ALL_THREE), classes=classes).startswith(message)


def test_like_orders_another_file_by_name(source):
    # The validation file counts its categories in another way: names decide.
    renumbered = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "cow"}]
    val = source(document([image(1)], [box(1, 1, [4, 0, 5, 5], 1), box(2, 1, [6, 0, 5, 5], 2)], renumbered), "val")
    data = load_coco((val,), like=("cat", "cow", "dog"))
    assert data.class_names == ("cat", "cow", "dog")
    assert data.category_ids == (2, 3, 1)  # those of this file, in the order of labels
    assert labels(data) == {4: 2, 6: 0}


def test_like_refuses_other_classes(source):
    message = refusal(source(ALL_THREE), like=("cat", "horse"), key="data.val")
    assert message == (
        "data.val: the categories of some.json do not match the classes ['cat', 'horse']: lacking ['horse'], "
        "in addition ['cow', 'dog']; name the classes to use with data.classes"
    )
    message = refusal(source(ALL_THREE), classes=("dog", "cat"), like=("cat", "dog"), key="data.val")
    assert message == "data.classes: gives ['dog', 'cat'], but the model was made for ['cat', 'dog']"


# ---- several sources


def test_sources_are_joined_with_new_image_ids(source):
    first = source(document([image(5), image(9)], [box(1, 9, [0, 0, 5, 5], 7)]), "first")
    categories = [{"id": 1, "name": "cow"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cat"}]
    second = source(
        document([image(5)], [box(1, 5, [1, 0, 5, 5], 2), box(2, 5, [2, 0, 5, 5], 3)], categories), "second"
    )
    data = load_coco((first, second))
    assert [(r.image_id, Path(r.path).parent.name) for r in data.records] == [(1, "first"), (2, "first"), (3, "second")]
    assert data.class_names == ("cat", "cow", "dog") and data.category_ids == (1, 2, 3)
    assert labels(data) == {0: 2, 1: 2, 2: 0}
    truth = data.ground_truth["annotations"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in truth] == [(1, 2, 3), (2, 3, 3), (3, 3, 1)]


def test_joined_image_ids_stay_unique_when_images_are_left_out(source):
    first = source(document([image(5), image(9)], [box(1, 9, [0, 0, 5, 5])]), "first")
    second = source(document([image(5), image(6)], [box(1, 5, [1, 0, 5, 5]), box(2, 6, [2, 0, 5, 5])]), "second")
    data = load_coco((first, second), keep_empty=False)
    assert [r.image_id for r in data.records] == [1, 2, 3]
    assert [a["image_id"] for a in data.ground_truth["annotations"]] == [1, 2, 3]


def test_sources_with_different_categories_need_a_choice(source):
    first = source(ALL_THREE, "first")
    second = source(document([image(1)], [box(1, 1, [9, 0, 5, 5], 3)], CATEGORIES[:2]), "second")
    message = refusal(first, second)
    assert "the categories of second.json do not match" in message and "lacking ['cow'], in addition []" in message
    assert labels(load_coco((first, second), classes=("dog", "cat"))) == {0: 1, 2: 0, 3: 1, 9: 1}
    assert refusal(first, second, classes=("cow",)) == (
        "data.classes: 'cow' is no category of second.json; it has ['cat', 'dog']"
    )


# ---- through the config


def config(train, val=None, **values):
    data = {"train": train.model_dump()} | ({"val": val.model_dump()} if val else {}) | values.pop("data", {})
    return config_from_values({"train": {"epochs": 1}, "data": data, **values}, source="test")


def test_num_classes_must_agree_with_the_data(source):
    some = source(ALL_THREE)
    for num_classes in (None, 3):
        data = load_train_data(config(some, model={"num_classes": num_classes}))
        assert data.class_names == ("cat", "cow", "dog")
    with pytest.raises(InputError) as caught:
        load_train_data(config(some, model={"num_classes": 4}))
    assert str(caught.value) == (
        f"model.num_classes is 4, but {some.annotations} has 3 classes ['cat', 'cow', 'dog']; leave num_classes out, "
        "or choose classes with data.classes (there is no background class to count)"
    )
    assert len(load_train_data(config(some, model={"num_classes": 1}, data={"classes": ["dog"]})).class_names) == 1


def test_val_follows_train(source):
    train = source(ALL_THREE, "train")
    val = source(document([image(1), image(2)], [box(1, 1, [0, 0, 5, 5], 7)], CATEGORIES[::-1]), "val")
    cfg = config(train, val, data={"keep_empty": False})
    names = load_train_data(cfg).class_names
    data = load_val_data(cfg, names)
    assert data.class_names == names
    assert len(data.records) == 2, "images without boxes can still have false detections"
    other = source(document([image(1)], [], CATEGORIES[:2]), "other")
    with pytest.raises(InputError, match=r"^data\.val: the categories of .*other\.json do not match"):
        load_val_data(config(train, other), names)
    with pytest.raises(InputError, match=r"^data\.val: no data given"):
        load_val_data(config(train), names)


# ---- real data


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no blood cells in {REAL}; RETINANET_DATA names the folder that has bccd"
)
def test_blood_cells(caplog):
    counts, dropped = {}, 0
    for split in ("train", "val", "test"):
        file = REAL / f"instances_{split}.json"
        data = load_coco((DataSource(images=str(REAL / "JPEGImages"), annotations=str(file)),))
        assert sorted(data.class_names) == ["Platelets", "RBC", "WBC"]
        counts[split] = len(data.records)
        num_boxes = sum(len(record.boxes) for record in data.records)
        raw = json.loads(file.read_text())["annotations"]
        assert len(data.ground_truth["annotations"]) == len(raw)
        dropped += len(raw) - num_boxes
        for record in data.records:
            x1, y1, x2, y2 = record.boxes.T
            assert (x1 >= 0).all() and (x2 <= record.width).all() and (x1 < x2).all()
            assert (y1 >= 0).all() and (y2 <= record.height).all() and (y1 < y2).all()
    assert counts == {"train": 205, "val": 87, "test": 72}
    assert dropped == 2
    assert [text.split(": ", 1)[1] for text in warnings_in(caplog) if "without area, dropped" in text]
