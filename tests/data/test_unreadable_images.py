"""Images that cannot be read while training are replaced and reported."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.config import FlipTransform, ScaleJitterTransform
from retinanet.data.loader import SampleReader, make_loader
from retinanet.data.sampler import PaddedShapes, PlannedImage, train_batches
from retinanet.data.transforms import Resize, build_transforms
from retinanet.errors import InputError
from retinanet.structures import Unreadable
from tests.data.test_loader import MAX_PIXELS, assert_same, pictures, record_of


def harm(path, how):
    data = path.read_bytes()
    if how == "vanished":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(data[: len(data) // 2])
    else:  # a bit of the compressed pixels: the checksum of their chunk no longer fits
        place = data.index(b"IDAT") + 40
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


HARMED = {3: "cut off", 5: "bad checksum", 6: "vanished"}
REASONS = {3: "damaged or cut-off JPEG", 5: "damaged or cut-off PNG", 6: "No such file or directory"}
ROADS = [build_transforms([ScaleJitterTransform(min=0.7, max=1.5), FlipTransform()]), [Resize()]]


@pytest.fixture
def harmed(tmp_path):
    """Records of twelve images, every other one upright; three of them are damaged, each in its own way."""
    records = []
    for number in range(12):
        height, width = (64, 48) if number % 2 else (48, 64)
        path = tmp_path / f"{number}.{'png' if number == 5 else 'jpg'}"
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        records.append(record_of(path, height, width))
    for number, how in HARMED.items():
        harm(Path(records[number].path), how)
    return records


def training_batches(records, steps, *, workers=0, start=0, batch_size=3, seed=0):
    padded_shapes = PaddedShapes(longer=96, aspects=(1.5,), divisor=32)
    sizes = [(record.height, record.width) for record in records]
    plan = train_batches(sizes, batch_size=batch_size, shorter=(48, 64), padded_shapes=padded_shapes, seed=seed)
    plan = list(itertools.islice(plan, start, 36 // batch_size))
    data = SampleReader(records, steps, seed=seed, max_pixels=MAX_PIXELS)
    return plan, list(make_loader(data, plan, workers=workers, pin_memory=False, replace_unreadable=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", ROADS)
def test_unreadable_images_are_replaced_and_reported(harmed, steps, workers):
    plan, batches = training_batches(harmed, steps, workers=workers)
    reports = []
    for samples, batch in zip(plan, batches, strict=True):
        assert batch.images.shape == (3, 3, *samples[0].padded_shape)
        replaced = {unreadable.index: unreadable for unreadable in batch.unreadable}
        for row, sample in enumerate(samples):
            used = batch.image_indices[row]
            assert used not in HARMED
            if sample.index in HARMED:
                report = replaced[sample.index]
                assert (report.epoch, report.replaced_by) == (sample.epoch, used)
            else:
                assert used == sample.index
            record = harmed[used]
            assert batch.original_sizes[row].tolist() == [record.height, record.width]
            height, width = batch.image_sizes[row].tolist()
            assert height <= samples[0].padded_shape[0] and width <= samples[0].padded_shape[1]
        reports += batch.unreadable
    for report in reports:
        assert type(report) is Unreadable
        assert report.reason.startswith(f"{harmed[report.index].path}: ") and REASONS[report.index] in report.reason
    assert {report.index for report in reports} == HARMED.keys()
    assert {report.epoch for report in reports} == {0, 1, 2}
    assert len({report.replaced_by for report in reports}) > 2  # not always the same stands in


def test_replacements_depend_on_nothing_but_seed_epoch_and_image(harmed):
    def replaced(**kwargs):
        _, batches = training_batches(harmed, [Resize()], **kwargs)
        return {(u.epoch, u.index): u.replaced_by for batch in batches for u in batch.unreadable}

    expected = replaced()
    assert len(expected) >= 9
    _, whole = training_batches(harmed, ROADS[0])
    for workers, start in ((2, 0), (0, 5), (1, 7)):
        assert_same(training_batches(harmed, ROADS[0], workers=workers, start=start)[1], whole[start:])
    other = replaced(batch_size=2)
    assert other.keys() & expected.keys() and all(other[key] == expected[key] for key in other.keys() & expected.keys())
    assert replaced(seed=1).items() & expected.items() != expected.items()


def test_replacement_is_the_other_image_with_the_randomness_of_the_place(harmed):
    """Its own place in the epoch shows it another way."""
    data = SampleReader(harmed, ROADS[0], seed=0, max_pixels=MAX_PIXELS)
    sample = PlannedImage(3, 1, 64, 96, (96, 64))
    (used, example, _), (report,) = data.replace(sample, InputError("gone"))
    assert used == sample._replace(index=report.replaced_by) and report.reason == "gone"
    by_hand = data.transform(data.read(used.index), sample)[1]
    assert torch.equal(example.image, by_hand.image) and torch.equal(example.boxes, by_hand.boxes)
    own = data(used)[1]
    assert own.image.shape != example.image.shape or not torch.equal(own.image, example.image)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_refuses_what_training_replaces(harmed, workers):
    plan = [[PlannedImage(index, 0, 48, 96, (64, 64))] for index in range(12)]
    data = pictures(*harmed, steps=[Resize()])
    loader = make_loader(data, plan, workers=workers, pin_memory=False, replace_unreadable=False)
    assert [next(loader).image_indices for _ in range(3)] == [(0,), (1,), (2,)]
    with pytest.raises(InputError, match="damaged or cut-off JPEG"):
        next(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lost_folder_is_an_error_not_a_search_through_the_data_set(tmp_path, workers, monkeypatch):
    records = [record_of(tmp_path / f"{number}.png", 48, 64) for number in range(40)]
    tried = []
    data = pictures(*records, steps=[Resize()])
    monkeypatch.setattr(data, "read", lambda index: tried.append(index) or SampleReader.read(data, index))
    plan = [[PlannedImage(4, 0, 48, 96, (64, 64))]]
    with pytest.raises(InputError) as caught:
        next(make_loader(data, plan, workers=workers, pin_memory=False, replace_unreadable=True))
    assert str(caught.value).startswith(f"{records[4].path}: No such file or directory")
    assert "none of the 10 images tried in its place can be read" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    if workers == 0:
        assert len(tried) == len(set(tried)) == 11


def test_unreadable_stand_ins_are_reported_too(tmp_path):
    records = [record_of(tmp_path / f"{number}.png", 48, 64) for number in range(5)]
    Image.new("RGB", (64, 48)).save(records[1].path)
    plan = [[PlannedImage(4, epoch, 48, 96, (64, 64))] for epoch in range(8)]
    data = pictures(*records, steps=[Resize()])
    batches = list(make_loader(data, plan, workers=0, pin_memory=False, replace_unreadable=True))
    assert {batch.image_indices for batch in batches} == {(1,)}
    assert {unreadable.replaced_by for batch in batches for unreadable in batch.unreadable} == {1}
    assert {unreadable.index for batch in batches for unreadable in batch.unreadable} == {0, 2, 3, 4}
    assert len({len(batch.unreadable) for batch in batches}) > 1  # the order of trying is another each time


def test_no_image_of_a_fitting_shape_leaves_the_error_as_it_is(tmp_path):
    Image.new("RGB", (48, 96)).save(tmp_path / "upright.png")
    records = [record_of(tmp_path / "gone.png", 48, 96), record_of(tmp_path / "upright.png", 96, 48)]
    plan = [[PlannedImage(0, 0, 48, 96, (64, 96))]]
    data = pictures(*records, steps=[Resize()])
    with pytest.raises(
        InputError, match=r"gone\.png: No such file or directory, expected an image that can be read; [^(]*$"
    ):
        next(make_loader(data, plan, workers=0, pin_memory=False, replace_unreadable=True))
