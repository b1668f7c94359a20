"""Wrong data is detected, and correct data is never reported."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations
from retinanet.formats.checks.plausibility import check_coordinates, check_objects, check_overlap, check_repeated_images
from retinanet.formats.coco.reader import read_coco
from tests.helpers.datasets import dataset_of, image_record

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RETINANET_DATA", REPO.parent / "shared" / "data"))


def annotations(boxes, *, size=(100, 200), areas=None, is_crowd=False, is_relative=False) -> Annotations:
    """Boxes of one image."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Annotations(
        source="some.json",
        image_folder=".",
        file_names=("1.png",),
        image_ids=(1,),
        sizes=np.array([size]),
        image_index=np.zeros(len(boxes), np.int64),
        boxes_xywh=boxes,
        areas=np.full(len(boxes), np.nan) if areas is None else np.array(areas, np.float64),
        category_index=np.zeros(len(boxes), np.int64),
        is_crowd=np.full(len(boxes), is_crowd),
        entry="annotation",
        entry_numbers=np.arange(1, len(boxes) + 1),
        category_names=("cat",),
        category_ids=(1,),
        is_relative=is_relative,
    )


def kinds(read) -> list[tuple[str, str]]:
    return [(finding.severity, finding.kind) for finding in check_coordinates(read, read.sizes)]


def random_boxes(seed, count=60, size=(100, 200)):
    """Boxes inside an image: (count, 4), left, top, width, height."""
    generator = np.random.default_rng(seed)
    limits = np.array(size[::-1])
    lengths = generator.uniform(2, 0.6 * limits, (count, 2))
    return np.concatenate([generator.uniform(0, limits - lengths), lengths], axis=1)


def as_corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def as_centres(boxes):
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def as_given_corners(numbers):
    """Convert four numbers like a reader that expects corners."""
    return np.concatenate([numbers[:, :2], numbers[:, 2:] - numbers[:, :2]], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_wrong_numbers_are_recognised(seed):
    boxes = random_boxes(seed)
    assert kinds(annotations(boxes)) == []
    assert kinds(annotations(boxes / [200, 100, 200, 100])) == [("error", "boxes_normalised")]
    assert kinds(annotations(as_corners(boxes) / [200, 100, 200, 100])) == [("error", "boxes_normalised")]
    assert kinds(annotations(as_corners(boxes), areas=boxes[:, 2] * boxes[:, 3])) == [("error", "boxes_are_corners")]
    assert kinds(annotations(as_corners(boxes))) == [("error", "boxes_are_corners")]
    assert kinds(annotations(as_centres(boxes))) == [("error", "boxes_are_centres")]
    assert kinds(annotations(as_given_corners(boxes))) == [("error", "boxes_are_sizes")]
    assert kinds(annotations(as_given_corners(as_centres(boxes)))) == [("error", "boxes_are_sizes")]


def test_message_describes_the_numbers():
    read = annotations(as_corners(random_boxes(0, count=20)).round())
    (finding,) = check_coordinates(read, read.sizes)
    leaving = (read.boxes_xywh[:, :2] + read.boxes_xywh[:, 2:] > [202, 101]).any(axis=1)
    assert str(finding).startswith(
        f"some.json: {leaving.sum()} of 20 boxes extend beyond their image, and the numbers look like corners, "
        "[x1, y1, x2, y2], expected [x, y, width, height]; convert the boxes, or export the "
        "annotations again (annotation "
    )
    assert "of 1.png, class 'cat': [" in finding.examples[0]


@pytest.mark.parametrize("change", [
    lambda boxes: boxes[:4] / [200, 100, 200, 100],  # too few to be sure
    lambda boxes: np.round(boxes / [200, 100, 200, 100]),  # boxes of one pixel
    lambda boxes: np.concatenate([boxes, as_corners(boxes[:8])]),  # a few wrong boxes, each reported as outside
    lambda boxes: boxes * 1.05,  # annotated at a different size: not corners
    lambda boxes: boxes * 2,
    lambda boxes: boxes + np.array([30, 0, 0, 0]),
    lambda boxes: boxes[:, [1, 0, 3, 2]],  # x and y exchanged
], ids=["few", "whole", "some", "scaled", "scaled by 2", "shifted", "exchanged"])  # fmt: skip
def test_other_causes_are_not_guessed(change):
    for seed in range(5):
        assert kinds(annotations(change(random_boxes(seed)))) == []


def test_areas_that_agree_with_the_boxes_rule_out_corners():
    boxes = np.tile([5.0, 5.0, 198.0, 98.0], (20, 1))  # large objects that end 3 pixels beyond the image
    assert kinds(annotations(boxes)) == [("error", "boxes_are_corners")]
    assert kinds(annotations(boxes, areas=boxes[:, 2] * boxes[:, 3])) == []


def test_crowd_regions_are_not_evidence():
    assert kinds(annotations(as_corners(random_boxes(0)), is_crowd=True)) == []


@given(st.data())
def test_good_boxes_are_never_reported(data):
    height, width = data.draw(st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
    count = data.draw(st.integers(0, 40))
    kind = data.draw(st.sampled_from(["uniform", "corner", "whole image", "tiny", "right", "integers"]))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    limits = np.array([width, height], dtype=np.float64)
    lengths = generator.uniform(0.01, 1, (count, 2)) * limits
    lengths = {"whole image": np.tile(limits, (count, 1)), "tiny": lengths * 0.02}.get(kind, lengths)
    first = generator.uniform(0, 1, (count, 2)) * (limits - lengths)
    first = {"corner": first * 0.05, "right": limits - lengths}.get(kind, first)
    boxes = np.concatenate([first, lengths], axis=1)
    boxes[:, :2] += generator.uniform(-0.9, 0.9)  # tools round outwards
    if kind == "integers":
        boxes = boxes.round()
    areas = data.draw(st.sampled_from([np.nan, 1.0, 0.7])) * boxes[:, 2] * boxes[:, 3]
    if not (boxes[:, :2] + boxes[:, 2:] <= 1.01).all():
        assert kinds(annotations(boxes, size=(height, width), areas=areas)) == []
    relative = np.clip(boxes / np.tile(limits, 2), 0, 1)
    assert kinds(annotations(relative, size=(height, width), is_relative=True)) == []


@pytest.mark.parametrize(
    "file", ["bccd/instances_train.json", "bccd/instances_val.json", "bccd/instances_test.json",
             "coco_slice/instances_train2017.json", "coco_slice/instances_val2017.json"],
)  # fmt: skip
def test_real_data_is_not_reported(file):
    if not (DATA / file).exists():
        pytest.skip(f"no {file} in {DATA}; set RETINANET_DATA to the folder that contains it")
    read = read_coco(DataSource(annotations=str(DATA / file), images="."))
    assert read.findings == () and kinds(read) == []


def test_synthetic_data_is_not_reported(shapes):
    for split in ("train", "val"):
        read = read_coco(DataSource(annotations=str(shapes / f"{split}.json"), images="."))
        assert read.findings == () and kinds(read) == []


# ---- datasets


def test_dataset_without_objects():
    empty, crowd = image_record(boxes=[]), image_record(is_crowd=[True])
    (finding,) = check_objects(dataset_of([empty]), where="data.train", training=True)
    assert finding.severity == "error" and "1 images with no objects: nothing can be learned" in finding.message
    (finding,) = check_objects(dataset_of([empty, crowd]), where="data.train", training=True)
    assert "2 images with only 1 crowd region(s), no objects" in finding.message
    (finding,) = check_objects(dataset_of([empty]), where="data.val", training=False)
    assert finding.severity == "warning" and "AP cannot be measured" in finding.message
    assert check_objects(dataset_of([empty, image_record()]), where="data.train", training=True) == []


def test_image_file_with_two_ids():
    (finding,) = check_repeated_images(["a.png", "b.png", "a.png"], where="some.json")
    assert (finding.severity, finding.kind, finding.examples) == ("warning", "file_name_twice", ("a.png",))
    assert check_repeated_images(["a.png", "b.png"], where="some.json") == []


def test_validation_images_that_are_training_images(tmp_path):
    for name, content in (
        ("a/1.png", "one"),
        ("a/2.png", "two"),
        ("b/1.png", "1"),
        ("b/2.png", "two"),
        ("b/3.png", ""),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    os.link(tmp_path / "a/1.png", tmp_path / "b/4.png")

    def data(*names):
        return dataset_of([image_record(path=tmp_path / name) for name in names])

    train = data("a/1.png", "a/2.png")
    assert check_overlap(train, data("b/1.png", "b/3.png")) == []
    (finding,) = check_overlap(train, data("a/1.png", "b/1.png", "b/2.png", "b/3.png", "b/4.png"))
    assert finding.message.startswith("3 of 5 validation images are also training images")
    assert finding.examples == tuple(str(tmp_path / name) for name in ("a/1.png", "b/2.png", "b/4.png"))
    shutil.rmtree(tmp_path / "b")
    assert check_overlap(train, data("b/1.png")) == []


def test_finding_contains_plain_values():
    read = annotations(random_boxes(0) / [200, 100, 200, 100])
    (finding,) = check_coordinates(dataclasses.replace(read, file_names=("é.png",)), read.sizes)
    assert all(isinstance(value, str) for value in finding[:4]) and all(isinstance(e, str) for e in finding.examples)
