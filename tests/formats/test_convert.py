import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.convert import (
    TARGETS,
    Placement,
    image_folder,
    place_image,
    placements,
    remove_links,
    write_annotations,
)
from retinanet.formats.dataset import Dataset
from retinanet.formats.detect import detect
from retinanet.formats.federated import Federated
from retinanet.formats.read import read_dataset
from retinanet.formats.verify import read_back
from tests.helpers.generated_datasets import datasets, write_images

REPO = Path(__file__).resolve().parents[2]
BLOOD_CELLS = Path(os.environ.get("RETINANET_DATA", REPO.parent / "shared" / "data")) / "bccd"
needs_blood_cells = pytest.mark.skipif(
    not BLOOD_CELLS.is_dir(), reason=f"no dataset in {BLOOD_CELLS}; set RETINANET_DATA to the folder that contains bccd"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def write(dataset, folder, *, to, split="train"):
    """Write a dataset with links to its images; return the counts of lost information."""
    losses = write_annotations(dataset, folder, to=to, split=split)
    for placement in placements(dataset, image_folder(folder, to=to, split=split)):
        place_image(placement, link=True)
    return losses


def read(dataset, folder, *, to):
    """Read a written dataset back."""
    images = image_folder(folder, to=to, split="train")
    return read_back(dataset, folder, to=to, split="train", images=images, max_pixels=100_000)


def differing_fields(first: Dataset, second: Dataset) -> list[str]:
    """Names of the fields that differ, apart from the folders of the images."""
    names = [field.name for field in fields(Dataset) if field.name != "paths"]
    different = [name for name in names if not np.array_equal(getattr(first, name), getattr(second, name))]
    same_files = [os.path.basename(path) for path in first.paths] == [os.path.basename(path) for path in second.paths]
    return different + ([] if same_files else ["paths"])


# ---- round trips


@pytest.mark.parametrize("to", TARGETS)
def test_everything_except_reported_losses_is_read_back(images, tmp_path, to):
    @settings(max_examples=12, deadline=None)
    @given(datasets(images))
    def check(dataset):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        losses = write(dataset, tmp_path / "out", to=to)
        assert all(count > 0 for count in losses.values())
        found = read(dataset, tmp_path / "out", to=to)
        if not losses:
            assert differing_fields(dataset, found) == []
        elif any("suffix" not in sentence for sentence in losses):  # this reader finds images without their suffix
            assert differing_fields(dataset, found) != []

    check()


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_conversion_through_all_formats_loses_no_object(images, tmp_path_factory, data):
    first = dataset = data.draw(datasets(images))
    order = data.draw(st.permutations([to for to in TARGETS if to != "open_images"]))
    for to in order:
        folder = tmp_path_factory.mktemp("circle")
        write(dataset, folder, to=to)
        assert detect(str(folder)).format == to
        dataset = read(dataset, folder, to=to)
    assert set(dataset.class_names) == set(first.class_names)
    assert dataset.object_counts() == [first.object_counts()[first.class_names.index(n)] for n in dataset.class_names]


@pytest.fixture(scope="module")
def blood_cells():
    source = DataSource(images=str(BLOOD_CELLS / "JPEGImages"), annotations=str(BLOOD_CELLS / "instances_val.json"))
    return read_dataset((source,))


@needs_blood_cells
@pytest.mark.parametrize("to", TARGETS)
def test_blood_cells_are_the_same_in_every_format(blood_cells, tmp_path, to):
    assert write(blood_cells, tmp_path, to=to) == {}
    source = DataSource(annotations=str(tmp_path), split="train")  # the format is detected
    found = read_dataset((source,), classes=("RBC", "WBC", "Platelets"))
    assert differing_fields(blood_cells, found) == []
    assert len(found.labels) > 1000


@needs_blood_cells
def test_written_files_agree_with_hotcoco(blood_cells, tmp_path):
    expected = _objects_of_dataset(blood_cells)
    write(blood_cells, tmp_path / "open_images", to="open_images")
    coco = hotcoco.COCO.from_oid(
        str(tmp_path / "open_images" / "train-annotations-bbox.csv"),
        class_descriptions=str(tmp_path / "open_images" / "class-descriptions-boxable.csv"),
        images_dir=str(tmp_path / "open_images" / "train"),
    )
    assert _objects_of_coco(coco) == expected
    write(blood_cells, tmp_path / "yolo", to="yolo")
    labels = tmp_path / "yolo" / "labels" / "train"
    shutil.copy(tmp_path / "yolo" / "data.yaml", labels)
    coco = hotcoco.COCO.from_yolo(str(labels), images_dir=str(tmp_path / "yolo" / "images" / "train"))
    assert _objects_of_coco(coco) == expected


def _objects_of_dataset(dataset):
    rows = np.repeat(np.arange(len(dataset)), np.diff(dataset.box_start))
    return sorted(
        (Path(dataset.paths[image]).stem, dataset.class_names[label], box)
        for image, label, box in zip(rows, dataset.labels, dataset.boxes_xywh.tolist(), strict=True)
    )


def _objects_of_coco(coco):
    stems = {image["id"]: Path(image["file_name"]).stem for image in coco.dataset["images"]}
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    return sorted(
        (stems[item["image_id"]], names[item["category_id"]], [round(value, 6) for value in item["bbox"]])
        for item in coco.dataset["annotations"]
    )


# ---- files


def make_dataset(folder, names=("a.jpg", "b 1.png"), **changes):
    """One box of each of two classes on the first image, and an image without boxes."""
    values = {
        "paths": tuple(str(folder / name) for name in names), "image_ids": (1, 2),
        "sizes": np.array([[48, 64], [9, 7]]), "box_start": np.array([0, 2, 2]),
        "boxes_xywh": np.array([[1.0, 2, 3, 4.5], [10, 20, 30, 20]]), "areas": np.array([13.5, 600]),
        "labels": np.array([1, 0]), "is_crowd": np.array([False, False]), "class_names": ("dog", "cat"),
        "category_ids": (1, 2),
    }  # fmt: skip
    return Dataset(**values | changes)


def test_csv_file(images, tmp_path):
    assert write_annotations(make_dataset(images), tmp_path, to="csv", split="val") == {}
    assert (tmp_path / "val" / "annotations.csv").read_text() == (
        "image_path,xmin,ymin,xmax,ymax,label\na.jpg,1,2,4,6.5,cat\na.jpg,10,20,40,40,dog\nb 1.png,,,,,\n"
    )
    assert (tmp_path / "val" / "classes.csv").read_text() == "dog,1\ncat,2\n"


def test_labelme_files(images, tmp_path):
    assert write_annotations(make_dataset(images), tmp_path, to="labelme", split="val") == {}
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == ["a.json", "b 1.json", "labels.txt"]
    document = json.loads((tmp_path / "val" / "a.json").read_text())
    assert (document["imagePath"], document["imageWidth"], document["imageHeight"]) == ("a.jpg", 64, 48)
    assert [(shape["label"], shape["points"], shape["shape_type"]) for shape in document["shapes"]] == [
        ("cat", [[1, 2], [4, 6.5]], "rectangle"),
        ("dog", [[10, 20], [40, 40]], "rectangle"),
    ]
    assert json.loads((tmp_path / "val" / "b 1.json").read_text())["shapes"] == []
    assert (tmp_path / "val" / "labels.txt").read_text() == "dog\ncat\n"


def test_open_images_files(images, tmp_path):
    crowd = make_dataset(images, is_crowd=np.array([False, True]))
    assert write_annotations(crowd, tmp_path, to="open_images", split="val") == {
        "images without objects are not listed": 1,
        "image names lose their suffix, which other tools expect to be .jpg": 1,
    }
    # 1 / 64 = 0.015625, 4 / 64, 2 / 48, 6.5 / 48; 10 / 64 = 0.15625, 40 / 64, 20 / 48, 40 / 48
    assert (tmp_path / "val-annotations-bbox.csv").read_text().splitlines()[1:] == [
        f"a,unknown,cat,1,0.015625,0.0625,{2 / 48},{6.5 / 48},-1,-1,0,-1,-1",
        f"a,unknown,dog,1,0.15625,0.625,{20 / 48},{40 / 48},-1,-1,1,-1,-1",
    ]
    assert (tmp_path / "class-descriptions-boxable.csv").read_text() == "dog,dog\ncat,cat\n"


@pytest.mark.parametrize("to", ["csv", "labelme"])
def test_losses_are_counted(images, tmp_path, to):
    dataset = make_dataset(
        images, ("b 1.png", "a.jpg"), image_ids=("x", 2), category_ids=(3, 5), areas=np.array([13.5, 99]),
        sizes=np.array([[9, 7], [48, 64]]), is_crowd=np.array([True, False]),
        boxes_xywh=np.array([[1.0, 2, 3, 4.5], [0.1, 0.2, 0.7, 0.1]]), box_start=np.array([0, 0, 2]),
    )  # fmt: skip
    losses = write_annotations(dataset, tmp_path, to=to, split="train")
    # 0.1 + 0.7 = 0.7999999999999999, and 0.7999999999999999 - 0.1 < 0.7
    assert losses == {
        "crowd regions are not written": 1,
        "box widths and heights are rounded in their last digit": 1,
        "image ids are replaced by 1, 2, ...": 1,
        "object areas are replaced by box areas": 1,
    } | ({"images are read back in the order of their names": 2, "category ids are replaced by 1, 2, ...": 2}
         if to == "labelme" else {})  # fmt: skip


@pytest.mark.parametrize("to", TARGETS)
def test_loss_of_verified_classes_is_counted(images, tmp_path, to):
    federated = make_dataset(images, federated=Federated(np.array([[1, 0]]), np.zeros((0, 2), dtype=np.int64)))
    losses = write_annotations(federated, tmp_path, to=to, split="train")
    assert losses["lists of the classes verified in each image are not written"] == 2


@pytest.mark.parametrize("to", TARGETS)
def test_existing_files_are_not_overwritten(images, tmp_path, to):
    dataset = make_dataset(images)
    write_annotations(dataset, tmp_path, to=to, split="train")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError):
        write_annotations(dataset, tmp_path, to=to, split="train")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_difference_is_reported(images, tmp_path):
    write(make_dataset(images), tmp_path, to="csv")
    moved = make_dataset(images, boxes_xywh=np.array([[1.0, 2, 3, 4.5], [10.01, 20, 30, 20]]))
    with pytest.raises(InputError, match=r"train: 2 boxes of image a\.jpg are read back as 2 different boxes, so csv"):
        read(moved, tmp_path, to="csv")
    with pytest.raises(InputError, match=r"image b 1\.png appears when read back, but is not in the dataset"):
        read(make_dataset(images, ("a.jpg", "c#2.JPG")), tmp_path, to="csv")


# ---- images


def test_image_listed_twice_is_placed_once(images, tmp_path):
    dataset = make_dataset(images, ("a.jpg", "a.jpg"))
    assert placements(dataset, tmp_path) == [Placement(str(images / "a.jpg"), tmp_path / "a.jpg")]


def test_copies_links_and_their_removal(images, tmp_path):
    placed = [Placement(str(images / "sub/a.png"), tmp_path / "x" / "y" / "a.png")]
    place_image(placed[0], link=True)
    assert placed[0].target.is_symlink() and placed[0].target.samefile(images / "sub/a.png")
    with pytest.raises(InputError, match=r"another image of the dataset is also named a\.png"):
        place_image(placed[0], link=False)
    remove_links(placed)
    assert (images / "sub/a.png").is_file() and not placed[0].target.parent.exists()
    place_image(placed[0], link=False)
    assert not placed[0].target.is_symlink()
    assert placed[0].target.read_bytes() == (images / "sub/a.png").read_bytes()
