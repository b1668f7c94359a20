import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.config import DataSource
from retinanet.config.load import config_from_values
from retinanet.data.build import load_train_data, load_val_data
from retinanet.errors import InputError
from retinanet.formats.coco.results import coco_results
from retinanet.formats.read import read_dataset
from retinanet.structures import Detections
from tests.helpers.coco_files import (
    CATEGORIES,
    annotations_of,
    box,
    document,
    error_of,
    image,
    images_of,
    label_by_left_edge,
    warnings_in,
)

REPO = Path(__file__).resolve().parents[2]
BLOOD_CELLS = Path(os.environ.get("RETINANET_DATA", REPO.parent / "shared" / "data")) / "bccd"

THREE_CLASSES = document(
    [image(1)],
    [box(1, 1, [0, 0, 5, 5], 3), box(2, 1, [1, 0, 5, 5], 5), box(3, 1, [2, 0, 5, 5], 7), box(4, 1, [3, 0, 5, 5], 3)],
)


# ---- the dataset


def test_ids_with_gaps_become_labels(source):
    content = document(
        [image(40), image(7, width=6, height=8), image(19)],
        [box(90, 7, [1, 2, 3, 4], category_id=7), box(4, 40, [0, 0, 20, 10], category_id=3),
         box(55, 40, [5, 5, 2.5, 2], category_id=5, iscrowd=1, area=3)],
    )  # fmt: skip
    data = read_dataset((source(content),))
    assert data.class_names == ("cat", "cow", "dog")  # by id
    assert data.category_ids == (3, 5, 7)
    first, second, third = images_of(data)  # in the order of the file
    assert (first.image_id, second.image_id, third.image_id) == (40, 7, 19)
    assert (second.height, second.width) == (8, 6)
    assert first.boxes.tolist() == [[0, 0, 20, 10], [5, 5, 7.5, 7]] and first.boxes.dtype == np.float32
    assert first.labels.tolist() == [0, 1] and first.labels.dtype == np.int64
    assert first.is_crowd.tolist() == [False, True]
    assert second.boxes.tolist() == [[1, 2, 4, 6]] and second.labels.tolist() == [2]
    assert third.boxes.shape == (0, 4) and third.labels.shape == (0,) and third.is_crowd.shape == (0,)


def test_boxes_and_areas_equal_those_in_the_file(source):
    content = document(
        [image(40), image(7)],
        [box(0, 7, [1, 2, 3, 4], category_id=7), box(9, 40, [5, 5, 2.5, 2], category_id=5, iscrowd=1, area=3)],
    )
    data = read_dataset((source(content),))
    assert annotations_of(data) == [
        {"image_id": 40, "category_id": 5, "bbox": [5, 5, 2.5, 2], "area": 3, "iscrowd": 1},
        {"image_id": 7, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
    ]
    assert Path(data.paths[0]).name == "40.png" and data.sizes[0].tolist() == [10, 20]
    assert data.image_ids == (40, 7)
    assert data.category_ids == (3, 5, 7) and data.class_names == ("cat", "cow", "dog")
    assert data.boxes_xywh.dtype == data.areas.dtype == np.float64


def test_image_ids_may_be_strings_or_integers_of_any_size(source):
    ids = ("b.png", "a.png", 2**53 + 1, -(2**70))
    content = document(
        [image(number) for number in ids], [box(n, number, [n, 0, 5, 5]) for n, number in enumerate(ids)]
    )
    data = read_dataset((source(content),))
    assert data.image_ids == ids
    assert [(record.image_id, record.boxes[0, 0]) for record in images_of(data)] == list(
        zip(ids, range(4), strict=True)
    )


def test_images_without_boxes_are_kept_or_skipped(source, caplog):
    some = source(document([image(1), image(2), image(3)], [box(1, 2, [0, 0, 5, 5]), box(2, 3, [0, 0, 0, 5])]))
    assert [record.image_id for record in images_of(read_dataset((some,)))] == [1, 2, 3]
    caplog.clear()
    data = read_dataset((some,), keep_empty=False)
    assert [record.image_id for record in images_of(data)] == [2]
    assert data.image_ids == (2,)
    assert [a["image_id"] for a in annotations_of(data)] == [2]
    assert any("2 image(s) without boxes skipped (data.keep_empty: false)" in text for text in warnings_in(caplog))


def test_no_usable_images_is_an_error(source):
    assert error_of(source(document([image(1)])), keep_empty=False, key="data.train") == (
        "data.train: no usable images in some.json; see the warnings above"
    )
    assert "no usable images" in error_of(source(document([])))
    assert error_of(key="data.val") == (
        "data.val: not set; set data.val=PATH to an annotation file or a dataset folder"
    )


@pytest.mark.parametrize("sizes", [{}, {"width": None, "height": None}, {"width": 20}, {"height": 10, "width": None}])
def test_missing_sizes_are_read_from_the_image(source, sizes):
    item = {"id": 1, "file_name": "1.png", **sizes}
    some = source(document([item], [box(1, 1, [10, 5, 50, 50])]))
    (record,) = images_of(read_dataset((some,)))
    assert (record.height, record.width) == (10, 20)
    assert record.boxes.tolist() == [[10, 5, 20, 10]]
    assert "some/1.png: has 200 pixels (20 x 10), expected at most 199" in error_of(some, max_pixels=199)


def test_missing_sizes_follow_the_exif_orientation(source, tmp_path):
    some = source(document([{"id": 1, "file_name": "1.jpg"}]), write_images=False)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "some" / "1.jpg", exif=exif)
    (record,) = images_of(read_dataset((some,)))
    assert (record.height, record.width) == (20, 10)


def test_byte_order_mark_and_unknown_fields_are_accepted(source):
    content = document([image(1, license=3, coco_url="x")], [box(1, 1, [0, 0, 5, 5], segmentation=[[1, 2]])])
    content["info"] = content["licenses"] = "whatever"
    some = source(content)
    file = Path(some.annotations)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read_dataset((some,)).image(0).boxes) == 1


# ---- missing images


def test_missing_annotation_file_is_an_error(tmp_path):
    gone = DataSource(images=str(tmp_path), annotations=str(tmp_path / "gone.json"))
    assert error_of(gone) == (
        "gone.json: cannot be read: No such file or directory; set data.annotations to an annotation file or folder"
    )
    assert ": no annotations found." in error_of(DataSource(images=str(tmp_path), annotations=str(tmp_path)))


def test_missing_image_folder_is_an_error(source):
    some = source(document([image(1)]))
    message = error_of(DataSource(images=some.images + "_gone", annotations=some.annotations), key="data.val")
    assert message.startswith("data.val.images: some_gone is not a folder")


def test_missing_images_are_counted_and_listed(source):
    some = source(document([image(number) for number in range(1, 9)]))
    for number in (2, 3, 4, 5, 6, 8):
        (Path(some.images) / f"{number}.png").unlink()
    assert error_of(some, key="data.val").startswith(
        "some.json: 6 of 8 images are not in some, first ['2.png', '3.png', '4.png', '5.png', '6.png']; "
    )


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0b.png", "folder"])
def test_impossible_file_names_count_as_missing(source, name):
    some = source(document([image(1, file_name=name)]), write_images=False)
    (Path(some.images) / "folder").mkdir()
    assert "1 of 1 images are not in" in error_of(some)


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "ABSOLUTE"])
def test_file_names_outside_the_folder_are_rejected(source, tmp_path, name):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (20, 10)).save(secret)
    name = name.replace("ABSOLUTE", str(secret))
    some = source(document([image(1, file_name=name)]), write_images=False)
    (Path(some.images) / "a").mkdir()
    assert "point outside" in error_of(some) and "use paths inside it" in error_of(some)


def test_images_in_subfolders_are_found(source, tmp_path):
    some = source(document([image(1, file_name="a/b..c.png")]), write_images=False)
    (tmp_path / "some" / "a").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "some" / "a" / "b..c.png")
    assert read_dataset((some,)).image(0).path == str(tmp_path / "some" / "a" / "b..c.png")


# ---- several sources


def test_sources_are_joined_with_new_image_ids(source):
    first = source(document([image(5), image(9)], [box(1, 9, [0, 0, 5, 5], 7)]), "first")
    categories = [{"id": 1, "name": "cow"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cat"}]
    second = source(
        document([image(5)], [box(1, 5, [1, 0, 5, 5], 2), box(2, 5, [2, 0, 5, 5], 3)], categories), "second"
    )
    data = read_dataset((first, second))
    assert [(r.image_id, Path(r.path).parent.name) for r in images_of(data)] == [
        (1, "first"),
        (2, "first"),
        (3, "second"),
    ]
    assert data.class_names == ("cat", "cow", "dog") and data.category_ids == (1, 2, 3)
    assert label_by_left_edge(data) == {0: 2, 1: 2, 2: 0}
    assert [(a["image_id"], a["category_id"]) for a in annotations_of(data)] == [(2, 3), (3, 3), (3, 1)]


def test_joined_image_ids_are_consecutive_when_images_are_skipped(source):
    first = source(document([image(5), image(9)], [box(1, 9, [0, 0, 5, 5])]), "first")
    second = source(document([image(5), image(6)], [box(1, 5, [1, 0, 5, 5]), box(2, 6, [2, 0, 5, 5])]), "second")
    data = read_dataset((first, second), keep_empty=False)
    assert [r.image_id for r in images_of(data)] == [1, 2, 3]
    assert [a["image_id"] for a in annotations_of(data)] == [1, 2, 3]


def test_sources_with_different_categories_need_a_selection(source):
    first = source(THREE_CLASSES, "first")
    second = source(document([image(1)], [box(1, 1, [9, 0, 5, 5], 3)], CATEGORIES[:2]), "second")
    message = error_of(first, second)
    assert "the categories of second.json do not match" in message and "missing ['cow'], unexpected []" in message
    assert label_by_left_edge(read_dataset((first, second), classes=("dog", "cat"))) == {0: 1, 2: 0, 3: 1, 9: 1}
    assert error_of(first, second, classes=("cow",)) == (
        "data.classes: 'cow' is not a category of second.json; it has ['cat', 'dog']"
    )


# ---- through the config


def config(train, val=None, **values):
    data = {"train": train.model_dump()} | ({"val": val.model_dump()} if val else {}) | values.pop("data", {})
    return config_from_values({"train": {"epochs": 1}, "data": data, **values}, source="test")


def test_num_classes_must_agree_with_the_data(source):
    some = source(THREE_CLASSES)
    for num_classes in (None, 3):
        data = load_train_data(config(some, model={"num_classes": num_classes}))
        assert data.class_names == ("cat", "cow", "dog")
    with pytest.raises(InputError) as caught:
        load_train_data(config(some, model={"num_classes": 4}))
    assert str(caught.value) == (
        f"model.num_classes: is 4, but {some.annotations} has 3 classes ['cat', 'cow', 'dog']; omit num_classes, or "
        "select classes with data.classes (the background is not a class)"
    )
    assert len(load_train_data(config(some, model={"num_classes": 1}, data={"classes": ["dog"]})).class_names) == 1


def test_validation_set_must_not_have_additional_classes(source):
    train = source(THREE_CLASSES, "train")
    val = source(document([image(1), image(2)], [box(1, 1, [0, 0, 5, 5], 7)], CATEGORIES[::-1]), "val")
    cfg = config(train, val, data={"keep_empty": False})
    names = load_train_data(cfg).class_names
    data = load_val_data(cfg, names)
    assert data.class_names == names
    assert len(data) == 2, "images without boxes can still have false detections"
    other = source(document([image(1)], [], [*CATEGORIES, {"id": 9, "name": "owl"}]), "other")
    with pytest.raises(InputError, match=r"^data\.val: the categories of .*other\.json do not match"):
        load_val_data(config(train, other), names)
    with pytest.raises(InputError, match=r"^data\.val: not set"):
        load_val_data(config(train), names)


# ---- real data


@pytest.mark.skipif(
    not BLOOD_CELLS.is_dir(), reason=f"no dataset in {BLOOD_CELLS}; set RETINANET_DATA to the folder that contains bccd"
)
def test_blood_cells_are_read_without_their_two_empty_boxes(caplog):
    counts, dropped = {}, 0
    for split in ("train", "val", "test"):
        file = BLOOD_CELLS / f"instances_{split}.json"
        data = read_dataset((DataSource(images=str(BLOOD_CELLS / "JPEGImages"), annotations=str(file)),))
        assert sorted(data.class_names) == ["Platelets", "RBC", "WBC"]
        counts[split] = len(data)
        num_boxes = sum(len(record.boxes) for record in images_of(data))
        raw = json.loads(file.read_text())["annotations"]
        assert len(annotations_of(data)) == num_boxes  # evaluation ignores what training drops
        dropped += len(raw) - num_boxes
        for record in images_of(data):
            x1, y1, x2, y2 = record.boxes.T
            assert (x1 >= 0).all() and (x2 <= record.width).all() and (x1 < x2).all()
            assert (y1 >= 0).all() and (y2 <= record.height).all() and (y1 < y2).all()
    assert counts == {"train": 205, "val": 87, "test": 72}
    assert dropped == 2
    assert [text.split(": ", 1)[1] for text in warnings_in(caplog) if "without area, dropped" in text]


# ---- results


def test_results_have_category_ids_and_xywh_boxes():
    found = Detections(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.5]), torch.tensor([1]))
    assert coco_results([(42, found)], category_ids=(7, 13)) == [
        {"image_id": 42, "category_id": 13, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]
