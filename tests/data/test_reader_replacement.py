"""Images that cannot be read in training are replaced and recorded."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from retinanet.config import FlipTransform, MosaicTransform, ResizeTransform, ScaleJitterTransform
from retinanet.data.loader import make_loader
from retinanet.data.padded_shapes import PaddedShapes, resized
from retinanet.data.reader import SampleReader
from retinanet.data.sampler import PlannedImage, train_batches
from retinanet.data.transforms.build import build_transforms
from retinanet.data.transforms.sample import Sample
from retinanet.data.transforms.sizing import Resize, planned_size
from retinanet.errors import InputError
from retinanet.structures import Unreadable
from tests.helpers.batches import assert_same_batches, reader_of
from tests.helpers.datasets import image_record
from tests.helpers.padded_shapes import SHAPES, SIZES


def damage(path, how):
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:  # flip a bit of the compressed pixels, so the checksum of their chunk no longer matches
        place = data.index(b"IDAT") + 40
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


DAMAGED = {3: "truncated", 5: "bad checksum", 6: "missing"}
REASONS = {3: "damaged or truncated JPEG", 5: "damaged or truncated PNG", 6: "No such file or directory"}
TRANSFORMS = [build_transforms([ScaleJitterTransform(min=0.7, max=1.5), FlipTransform()]), [Resize()]]


@pytest.fixture
def damaged(tmp_path):
    """Records of twelve images, every other one in portrait; three are damaged, each in a different way."""
    records = []
    for number in range(12):
        height, width = (64, 48) if number % 2 else (48, 64)
        path = tmp_path / f"{number}.{'png' if number == 5 else 'jpg'}"
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        records.append(image_record(path, height, width))
    for number, how in DAMAGED.items():
        damage(Path(records[number].path), how)
    return records


def training_batches(records, transforms, *, workers=0, start=0, batch_size=3, seed=0):
    padded_shapes = PaddedShapes(longer=96, aspects=(1.5,), divisor=32)
    sizes = [(record.height, record.width) for record in records]
    planned = train_batches(sizes, batch_size=batch_size, shorter=(48, 64), padded_shapes=padded_shapes, seed=seed)
    planned = list(itertools.islice(planned, start, 36 // batch_size))
    reader = reader_of(*records, transforms=transforms, seed=seed)
    return planned, list(make_loader(reader, planned, workers=workers, pin_memory=False, replace_unreadable=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("transforms", TRANSFORMS)
def test_unreadable_images_are_replaced_and_recorded(damaged, transforms, workers):
    planned_batches, batches = training_batches(damaged, transforms, workers=workers)
    reports = []
    for planned_images, batch in zip(planned_batches, batches, strict=True):
        assert batch.images.shape == (3, 3, *planned_images[0].padded_shape)
        replaced = {unreadable.index: unreadable for unreadable in batch.unreadable}
        for row, planned in enumerate(planned_images):
            used = batch.image_indices[row]
            assert used not in DAMAGED
            if planned.index in DAMAGED:
                report = replaced[planned.index]
                assert (report.epoch, report.replaced_by) == (planned.epoch, used)
            else:
                assert used == planned.index
            record = damaged[used]
            assert batch.original_sizes[row].tolist() == [record.height, record.width]
            height, width = batch.image_sizes[row].tolist()
            assert height <= planned_images[0].padded_shape[0] and width <= planned_images[0].padded_shape[1]
        reports += batch.unreadable
    for report in reports:
        assert type(report) is Unreadable
        assert report.reason.startswith(f"{damaged[report.index].path}: ") and REASONS[report.index] in report.reason
    assert {report.index for report in reports} == DAMAGED.keys()
    assert {report.epoch for report in reports} == {0, 1, 2}
    assert len({report.replaced_by for report in reports}) > 2  # replacements vary


def test_replacements_depend_only_on_seed_epoch_and_image(damaged):
    def replaced(**kwargs):
        planned_batches, batches = training_batches(damaged, [Resize()], **kwargs)
        used = [index for batch in batches for index in batch.image_indices]
        planned_images = [planned for batch in planned_batches for planned in batch]
        return {
            (planned.epoch, planned.index): index
            for planned, index in zip(planned_images, used, strict=True)
            if planned.index in DAMAGED
        }

    expected = replaced()
    assert len(expected) >= 9
    _, whole = training_batches(damaged, TRANSFORMS[0])
    for workers, start in ((2, 0), (0, 5), (1, 7)):
        assert_same_batches(training_batches(damaged, TRANSFORMS[0], workers=workers, start=start)[1], whole[start:])
    other = replaced(batch_size=2)
    assert other.keys() & expected.keys() and all(other[key] == expected[key] for key in other.keys() & expected.keys())
    assert replaced(seed=1).items() & expected.items() != expected.items()


def test_replacement_is_transformed_with_the_seed_of_the_planned_image(damaged):
    reader = reader_of(*damaged, transforms=TRANSFORMS[0])
    planned = PlannedImage(3, 1, 64, 96, (96, 64), (96, 64))
    used, sample, _, (report,) = reader.replace(planned, InputError("gone"))
    assert used == planned._replace(index=report.replaced_by) and report.reason == "gone"
    expected = reader.transform(reader.read(used.index), planned).sample
    assert torch.equal(sample.image, expected.image) and torch.equal(sample.boxes, expected.boxes)
    own = reader(used).sample  # as it is used at its own position in the epoch
    assert own.image.shape != sample.image.shape or not torch.equal(own.image, sample.image)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_raises_on_images_that_training_replaces(damaged, workers):
    planned = [[PlannedImage(index, 0, 48, 96, (64, 64), (64, 64))] for index in range(12)]
    reader = reader_of(*damaged, transforms=[Resize()])
    loader = make_loader(reader, planned, workers=workers, pin_memory=False, replace_unreadable=False)
    assert [next(loader).image_indices for _ in range(3)] == [(0,), (1,), (2,)]
    with pytest.raises(InputError, match="damaged or truncated JPEG"):
        next(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_missing_folder_is_an_error_after_ten_replacements(tmp_path, workers, monkeypatch):
    records = [image_record(tmp_path / f"{number}.png", 48, 64) for number in range(40)]
    tried = []
    reader = reader_of(*records, transforms=[Resize()])
    monkeypatch.setattr(reader, "read", lambda index: tried.append(index) or SampleReader.read(reader, index))
    planned = [[PlannedImage(4, 0, 48, 96, (64, 64), (64, 64))]]
    with pytest.raises(InputError) as caught:
        next(make_loader(reader, planned, workers=workers, pin_memory=False, replace_unreadable=True))
    assert str(caught.value).startswith(f"{records[4].path}: No such file or directory")
    assert "none of the 10 replacements tried can be read" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    if workers == 0:
        assert len(tried) == len(set(tried)) == 11


def test_unreadable_replacements_are_recorded_too(tmp_path):
    records = [image_record(tmp_path / f"{number}.png", 48, 64) for number in range(5)]
    Image.new("RGB", (64, 48)).save(records[1].path)
    planned = [[PlannedImage(4, epoch, 48, 96, (64, 64), (64, 64))] for epoch in range(8)]
    reader = reader_of(*records, transforms=[Resize()])
    batches = list(make_loader(reader, planned, workers=0, pin_memory=False, replace_unreadable=True))
    assert {batch.image_indices for batch in batches} == {(1,)}
    assert {unreadable.replaced_by for batch in batches for unreadable in batch.unreadable} == {1}
    assert {unreadable.index for batch in batches for unreadable in batch.unreadable} == {0, 2, 3, 4}
    assert len({len(batch.unreadable) for batch in batches}) > 1  # the order of attempts varies


def test_image_of_another_shape_is_shrunk_to_replace_one(tmp_path):
    # Landscape, 48 x 96 as planned; the portrait of 96 x 48 must fit 64 x 96: its longer side is 64, not 96.
    Image.new("RGB", (48, 96), (9, 9, 9)).save(tmp_path / "portrait.png")
    records = [
        image_record(tmp_path / "gone.png", 48, 96),
        image_record(tmp_path / "portrait.png", 96, 48, [(12, 48, 24, 96)]),
    ]
    planned = [[PlannedImage(0, 0, 48, 96, (64, 96), (96, 96))]]
    reader = reader_of(*records, transforms=[Resize()])
    (batch,) = make_loader(reader, planned, workers=0, pin_memory=False, replace_unreadable=True)
    assert batch.images.shape == (1, 3, 96, 96) and batch.image_sizes.tolist() == [[64, 32]]
    assert batch.targets.boxes[0, 0].tolist() == [8, 32, 16, 64]
    ((index, _, replaced_by, reason),) = batch.unreadable
    assert (index, replaced_by) == (0, 1) and "No such file" in reason


@settings(max_examples=200, deadline=None)
@given(size=SIZES, other_size=SIZES, setting=SHAPES)
def test_replacement_of_any_size_is_within_the_bounds_of_the_planned_image(size, other_size, setting):
    (side, *_), padded_shapes = setting
    shape = padded_shapes.padded_shape(padded_shapes.bucket(*size), side)
    planned = PlannedImage(0, 0, side, padded_shapes.longer, shape, shape)
    other = Sample(torch.zeros(3, 1, 1).expand(3, *other_size), *[torch.zeros(0)] * 3)
    height, width = planned_size(other, planned)
    assert 1 <= height <= shape[0] and 1 <= width <= shape[1]
    # As large as possible: as planned, or one side reaches the bound.
    as_planned = resized(*other_size, side, padded_shapes.longer)
    assert (height, width) == as_planned or height == shape[0] or width == shape[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_partners_are_replaced_and_recorded(damaged, workers):
    transforms = build_transforms([MosaicTransform(p=1.0), ResizeTransform()])
    _, batches = training_batches(damaged, transforms, workers=workers)
    reports = [entry for batch in batches for entry in batch.unreadable]
    assert {report.index for report in reports} == DAMAGED.keys()
    assert len(reports) > 9 + 9  # 9 planned images are damaged, and about 27 of the 108 partners of 36 mosaics
    assert {report.replaced_by for report in reports}.isdisjoint(DAMAGED)
    for report in reports:
        assert report.reason.startswith(f"{damaged[report.index].path}: ") and REASONS[report.index] in report.reason
    assert_same_batches(training_batches(damaged, transforms, start=7)[1], batches[7:])


def test_single_image_that_cannot_be_read_is_an_error(tmp_path):
    planned = [[PlannedImage(0, 0, 48, 96, (64, 96), (64, 96))]]
    reader = reader_of(image_record(tmp_path / "gone.png", 48, 96), transforms=[Resize()])
    with pytest.raises(
        InputError,
        match=r"gone\.png: No such file or directory.*\(and the dataset has no other image as a replacement\)$",
    ):
        next(make_loader(reader, planned, workers=0, pin_memory=False, replace_unreadable=True))
