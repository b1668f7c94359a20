import dataclasses
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.formats.read import read_dataset
from retinanet.formats.voc.writer import write_voc
from tests.helpers.blood_cells import BLOOD_CELL_SPLITS, BLOOD_CELLS, blood_cells, needs_blood_cells
from tests.helpers.dataset_folders import dataset_of, datasets, differences, place_images


def read_back(folder: Path, part: str = "train", **fields) -> Dataset:
    source = DataSource(annotations=str(folder), format="voc", **fields)
    return read_dataset((source,), key=f"data.{part}")


def test_files(tmp_path):
    dataset = dataset_of(
        "/x/b.png", "/x/sub/a.png", counts=(1, 0), boxes_xywh=np.array([[1, 2.5, 3, 4]]), areas=np.array([12.0]),
        class_names=("<&>", "cat"), category_ids=(1, 2), is_crowd=np.array([True]),
    )  # fmt: skip
    assert write_voc(dataset, tmp_path, split="train") == {"crowd regions are written as difficult objects": 1}
    assert (tmp_path / "Annotations/b.xml").read_text() == (
        "<annotation>\n  <filename>b.png</filename>\n"
        "  <size><width>40</width><height>20</height><depth>3</depth></size>\n"
        "  <object>\n    <name>&lt;&amp;&gt;</name>\n    <difficult>1</difficult>\n"
        "    <bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>4</xmax><ymax>6.5</ymax></bndbox>\n  </object>\n"
        "</annotation>\n"
    )
    assert (tmp_path / "ImageSets/Main/train.txt").read_text() == "b\nsub/a\n"
    assert (tmp_path / "labels.txt").read_text() == "<&>\ncat\n"


def test_losses_are_counted(tmp_path):
    dataset = dataset_of(
        "/x/a.png", "/x/b.png", "/x/a.png", image_ids=("a", "b", "c"), category_ids=(7,),
        boxes_xywh=np.array([[0, 0, 5, 4], [0.1, 0, 0.2, 4], [1, 0, 5, 4]]), areas=np.array([20, 1, 20.0]),
    )  # fmt: skip
    assert write_voc(dataset, tmp_path, split="train") == {
        "box widths and heights are rounded in their last digit": 1,  # 0.1 + 0.2 - 0.1 is not 0.2
        "images listed several times are merged": 1,
        "image ids are replaced by 1, 2, ...": 3,
        "object areas are replaced by box areas": 1,
        "category ids are replaced by 1, 2, ...": 1,
    }
    place_images(dataset, tmp_path / "JPEGImages")
    data = read_back(tmp_path)
    assert data.box_start.tolist() == [0, 2, 3]
    assert data.boxes_xywh[:2].tolist() == [[0, 0, 5, 4], [1, 0, 5, 4]]


def test_existing_files_are_never_changed(tmp_path):
    dataset = dataset_of("/x/a.png")
    write_voc(dataset, tmp_path, split="train")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"Annotations/a\.xml: exists and will not be overwritten"):
        write_voc(dataset, tmp_path, split="train")
    with pytest.raises(InputError, match=r"labels\.txt: lists other classes and will not be changed"):
        write_voc(dataclasses.replace(dataset, class_names=("dog",)), tmp_path, split="val")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fields", [{"class_names": ("a\0",)}, {"class_names": ("a\nb",)}, {"paths": ("/x/\x1b.png",)}])
def test_names_that_xml_cannot_express_are_an_error(fields, tmp_path):
    with pytest.raises(InputError, match="contains characters that XML cannot express; change the name"):
        write_voc(dataclasses.replace(dataset_of("/x/a.png"), **fields), tmp_path, split="train")
    assert not list(tmp_path.iterdir())


@given(dataset=datasets())
@settings(max_examples=15, deadline=None)
def test_generated_datasets_are_read_back_except_for_counted_losses(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    losses = write_voc(dataset, folder, split="train")
    place_images(dataset, folder / "JPEGImages")
    data = read_back(folder)
    assert losses.pop("crowd regions are written as difficult objects", 0) == dataset.is_crowd.sum()
    lost = {
        "box widths and heights are rounded in their last digit": "boxes_xywh",
        "image ids are replaced by 1, 2, ...": "image_ids",
        "object areas are replaced by box areas": "areas",
        "category ids are replaced by 1, 2, ...": "category_ids",
    }
    changed = set(differences(data, dataset))
    # The area of a box changes with its sides.
    assert changed - {"areas"} == {lost[sentence] for sentence in losses} - {"areas"}
    assert ("areas" in changed) <= bool(losses)
    np.testing.assert_allclose(data.boxes_xywh, dataset.boxes_xywh, rtol=1e-14)
    objects = read_back(folder, difficult="object")
    assert not objects.is_crowd.any() and len(objects.labels) == len(dataset.labels)


@needs_blood_cells
def test_blood_cells_are_read_back_bit_for_bit(tmp_path):
    (tmp_path / "JPEGImages").symlink_to((BLOOD_CELLS / "JPEGImages").resolve())
    datasets_by_split = {split: blood_cells(split) for split in BLOOD_CELL_SPLITS}
    for split, dataset in datasets_by_split.items():
        assert write_voc(dataset, tmp_path, split=split) == {}
    for split, dataset in datasets_by_split.items():
        source = DataSource(annotations=str(tmp_path), split=split)
        assert differences(read_dataset((source,)), dataset) == []


@needs_blood_cells
def test_agrees_with_hotcoco_except_for_its_one_based_pixels(tmp_path):
    """hotcoco treats corners as inclusive pixel numbers, counted from 1: x = xmin - 1, width = xmax - xmin + 1."""
    offset = [1, 1, -1, -1]
    dataset = blood_cells("val")
    write_voc(dataset, tmp_path / "ours", split="val")
    theirs = hotcoco.COCO.from_voc(str(tmp_path / "ours"))
    assert [image["file_name"] for image in theirs.dataset["images"]] == [Path(path).name for path in dataset.paths]
    boxes = np.array([annotation["bbox"] for annotation in theirs.dataset["annotations"]])
    assert np.array_equal(boxes + offset, dataset.boxes_xywh)
    assert [annotation["category_id"] - 1 for annotation in theirs.dataset["annotations"]] == dataset.labels.tolist()

    hotcoco.COCO(str(BLOOD_CELLS / "instances_val.json")).to_voc(str(tmp_path / "theirs"))
    data = read_back(tmp_path / "theirs", "val", images=str(BLOOD_CELLS / "JPEGImages"))
    assert np.array_equal(data.boxes_xywh, dataset.boxes_xywh + offset)
    assert np.array_equal(data.labels, dataset.labels)
