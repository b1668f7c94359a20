import dataclasses
import os
import shutil
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.formats.read import read_dataset
from retinanet.formats.yolo.writer import write_yolo
from tests.helpers.blood_cells import BLOOD_CELL_SPLITS, BLOOD_CELLS, blood_cells, needs_blood_cells
from tests.helpers.dataset_folders import dataset_of, datasets, differences, place_images


def read_back(folder: Path, part: str = "train") -> Dataset:
    return read_dataset((DataSource(annotations=str(folder), format="yolo"),), key=f"data.{part}")


def link_images(dataset: Dataset, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in dataset.paths:
        (folder / Path(path).name).symlink_to(os.path.abspath(path))


def test_files(tmp_path):
    dataset = dataset_of("/x/b.png", "/x/sub/a.png", counts=(2, 0), class_names=("no", "1.0"), category_ids=(1, 2))
    assert write_yolo(dataset, tmp_path, split="train") == {}
    assert write_yolo(dataset, tmp_path, split="valid") == {}
    # In an image of 40 x 20, boxes of 5 x 4 with centres (2.5, 3) and (3.5, 3).
    assert (tmp_path / "labels/train/b.txt").read_text() == "0 0.0625 0.15 0.125 0.2\n0 0.0875 0.15 0.125 0.2\n"
    assert (tmp_path / "labels/train/sub/a.txt").read_text() == ""
    assert (tmp_path / "data.yaml").read_text() == ("train: images/train\nval: images/valid\nnames: ['no', '1.0']\n")


def test_losses_are_counted(tmp_path):
    dataset = dataset_of(
        "/x/b.png", "/x/a.png", counts=(2, 2), image_ids=(1, 9), category_ids=(7,),
        boxes_xywh=np.array([[-0.5, 0, 5, 4], [0, 0, 5, 4], [0.1234567, 0, 5, 4], [0, 0, 5, 4]]),
        is_crowd=np.array([False, False, False, True]), areas=np.array([20, 20, 20, 9.0]),
    )  # fmt: skip
    assert write_yolo(dataset, tmp_path, split="val") == {
        "crowd regions are not written": 1,
        "boxes are clipped to their image": 1,
        "boxes are rounded to a millionth of a pixel": 1,
        "images are read back in the order of their names": 2,
        "image ids are replaced by 1, 2, ...": 1,
        "object areas are replaced by box areas": 1,
        "category ids are replaced by 1, 2, ...": 1,
    }
    place_images(dataset, tmp_path / "images/val")
    data = read_back(tmp_path, "val")
    assert [Path(path).name for path in data.paths] == ["a.png", "b.png"]
    assert data.boxes_xywh.tolist() == [[0.123457, 0, 5, 4], [0, 0, 4.5, 4], [0, 0, 5, 4]]


def test_existing_files_are_never_changed(tmp_path):
    dataset = dataset_of("/x/a.png")
    write_yolo(dataset, tmp_path, split="train")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = dataclasses.replace(dataset, class_names=("dog",))
    for again, split, message in (
        (dataset, "train", "data.yaml: already has the split train and will not be changed; choose another folder"),
        (other, "val", "data.yaml: already has the classes ['cat'] and will not be changed; choose another folder"),
    ):
        with pytest.raises(InputError) as caught:
            write_yolo(again, tmp_path, split=split)
        assert str(caught.value) == f"{tmp_path}/{message}"
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(InputError, match=r"labels/train/a\.txt: exists and will not be overwritten"):
        write_yolo(dataset, tmp_path, split="train")
    (tmp_path / "data.yaml").write_text("names: [cat]\nnotes: mine\n")
    with pytest.raises(InputError, match=r"has other keys \['notes'\] and will not be changed"):
        write_yolo(dataset, tmp_path, split="val")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before | {tmp_path / "data.yaml": b"names: [cat]\nnotes: mine\n"}


def test_split_without_a_usual_name_is_an_error(tmp_path):
    with pytest.raises(InputError, match="YOLO has no split 'all'; use one of train, val, test"):
        write_yolo(dataset_of("/x/a.png"), tmp_path, split="all")


@given(dataset=datasets())
@settings(max_examples=15, deadline=None)
def test_generated_datasets_are_read_back_except_for_counted_losses(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolo")
    losses = write_yolo(dataset, folder, split="train")
    place_images(dataset, folder / "images/train")
    data = read_back(folder)
    order = np.argsort(dataset.paths, kind="stable")
    expected = dataset.subset(order)
    counted = {
        "crowd regions are not written": int(dataset.is_crowd.sum()),
        "images are read back in the order of their names": int((order != np.arange(len(order))).sum()),
    }
    assert {sentence: losses.get(sentence, 0) for sentence in counted} == counted
    objects = ~expected.is_crowd
    assert np.array_equal(data.labels, expected.labels[objects])
    assert data.class_names == dataset.class_names
    differs = (data.boxes_xywh != expected.boxes_xywh[objects]).any(axis=1)
    assert differs.sum() == losses.get("boxes are rounded to a millionth of a pixel", 0)
    assert np.abs(data.boxes_xywh - expected.boxes_xywh[objects]).max(initial=0) <= 1e-6
    if not losses:
        assert differences(data, dataset) == []


@needs_blood_cells
def test_blood_cells_are_read_back_bit_for_bit(tmp_path):
    datasets_by_split = {split: blood_cells(split) for split in BLOOD_CELL_SPLITS}
    for split, dataset in datasets_by_split.items():
        assert write_yolo(dataset, tmp_path, split=split) == {}
        link_images(dataset, tmp_path / "images" / split)
    for split, dataset in datasets_by_split.items():
        source = DataSource(annotations=str(tmp_path), split=split)
        assert differences(read_dataset((source,)), dataset) == []


@needs_blood_cells
def test_agrees_with_hotcoco(tmp_path):
    dataset = blood_cells("val")
    link_images(dataset, tmp_path / "ours/images/val")
    write_yolo(dataset, tmp_path / "ours", split="val")
    shutil.copy(tmp_path / "ours/data.yaml", tmp_path / "ours/labels/val")
    theirs = hotcoco.COCO.from_yolo(str(tmp_path / "ours/labels/val"), images_dir=str(tmp_path / "ours/images/val"))
    boxes = np.array([annotation["bbox"] for annotation in theirs.dataset["annotations"]])
    np.testing.assert_allclose(boxes, dataset.boxes_xywh, rtol=0, atol=1e-9)
    labels = [annotation["category_id"] - 1 for annotation in theirs.dataset["annotations"]]
    assert labels == dataset.labels.tolist()

    # hotcoco writes six decimals, so centre and width are each wrong by up to half a millionth of 640 pixels.
    coco = hotcoco.COCO(str(BLOOD_CELLS / "instances_val.json"))
    coco.to_yolo(str(tmp_path / "theirs/labels/val"))
    shutil.move(tmp_path / "theirs/labels/val/data.yaml", tmp_path / "theirs/data.yaml")
    link_images(dataset, tmp_path / "theirs/images/val")
    data = read_back(tmp_path / "theirs", "val")
    np.testing.assert_allclose(data.boxes_xywh, dataset.boxes_xywh, rtol=0, atol=1.5 * 640 * 0.5e-6)
    assert np.array_equal(data.labels, dataset.labels)
