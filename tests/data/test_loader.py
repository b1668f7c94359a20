import io
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.config.load import load_config
from retinanet.data.build import (
    build_padded_shapes,
    eval_loader,
    eval_plan,
    eval_shorter,
    load_train_data,
    load_val_data,
    train_loader,
    train_plan,
)
from retinanet.data.loader import BOXES_STEP, Parcel, SampleReader, collate, make_loader, pad_targets
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms import Resize, Sample, ScaleJitter
from retinanet.errors import InputError
from retinanet.formats.coco import Record
from retinanet.structures import Batch, Targets, Unreadable

MAX_PIXELS = 1_000_000
SHAPE = (64, 96)
NO_OBJECTS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
AUGMENT = "data.transforms=[{type: scale_jitter, min: 0.7, max: 1.5}, {type: flip}, {type: color, hue: 0.1}]"


@pytest.fixture
def cfg_of(tiny_overrides):
    return lambda *overrides: load_config("quickstart", [*tiny_overrides, *overrides])


def assert_same(batches, others):
    batches, others = list(batches), list(others)
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.image_indices == other.image_indices and batch.unreadable == other.unreadable
        for name in ("images", "image_sizes", "original_sizes"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
        assert batch.targets.has_crowd == other.targets.has_crowd
        for tensor, same in zip(batch.tensors(), other.tensors(), strict=True):
            assert torch.equal(tensor, same)


# ---- what a batch is


def test_batches_follow_the_plan(cfg_of):
    cfg = cfg_of()
    data = load_train_data(cfg)
    plan = train_plan(cfg, data)
    for batch in train_loader(cfg, data, start=0, stop=6, pin_memory=False):
        samples = next(plan)
        assert batch.image_indices == tuple(sample.index for sample in samples)
        assert batch.images.shape == (4, 3, *samples[0].padded_shape) and batch.images.dtype == torch.uint8
        for row, index in enumerate(batch.image_indices):
            record = data.records[index]
            height, width = batch.image_sizes[row].tolist()
            assert batch.original_sizes[row].tolist() == [record.height, record.width]
            assert not batch.images[row, :, height:].any() and not batch.images[row, :, :, width:].any()
            assert batch.images[row, :, :height, :width].any()
            assert min(height, width) == 64 or max(height, width) == 96
            # Without a crop no box is lost.
            assert int(batch.targets.is_object[row].sum()) == int((~record.is_crowd).sum())
            assert int(batch.targets.is_crowd[row].sum()) == int(record.is_crowd.sum())
            boxes = batch.targets.boxes[row][batch.targets.is_object[row] | batch.targets.is_crowd[row]]
            assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= width).all() and (boxes[:, [1, 3]] <= height).all()


def test_evaluation_has_each_image_once_and_changes_nothing_but_its_size(cfg_of):
    cfg = cfg_of(AUGMENT)
    data = load_val_data(cfg, load_train_data(cfg).class_names)
    batches = list(eval_loader(cfg, data, eval_plan(cfg, data), pin_memory=False))
    assert len(batches) == len(eval_plan(cfg, data))
    assert sorted(index for batch in batches for index in batch.image_indices) == list(range(8))
    for batch in batches:
        for row, index in enumerate(batch.image_indices):
            record = data.records[index]
            with Image.open(record.path) as picture:
                pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            example = Sample(pixels, torch.from_numpy(record.boxes), torch.zeros(0), torch.zeros(0))
            expected = Resize()(example, PlannedImage(index, 0, 64, 96, tuple(batch.images.shape[-2:])))
            height, width = batch.image_sizes[row].tolist()
            assert torch.equal(batch.images[row, :, :height, :width], expected.image)
            assert torch.equal(batch.targets.boxes[row, : len(record.boxes)], expected.boxes)


def test_side_of_evaluation(cfg_of):
    assert eval_shorter(cfg_of("data.resize.shorter=[48, 80, 64]").data) == 80
    assert eval_shorter(cfg_of("data.resize.val_shorter=72").data) == 72
    cfg = cfg_of("data.resize.val_shorter=72")
    data = load_val_data(cfg, load_train_data(cfg).class_names)
    assert {sample.shorter for batch in eval_plan(cfg, data) for sample in batch} == {72}
    assert build_padded_shapes(cfg.data).longer == 96


@pytest.mark.parametrize(("most", "length"), [(0, 8), (1, 8), (8, 8), (9, 16), (16, 16), (17, 24), (100, 104)])
def test_ground_truth_is_padded_to_a_few_lengths(most, length):
    def truth(count):
        boxes = torch.arange(4.0 * count).reshape(count, 4)
        return boxes, torch.arange(count) + 1, torch.arange(count) % 3 == 2

    targets = pad_targets([truth(most), truth(0), truth(min(most, 2))])
    assert BOXES_STEP == 8
    assert targets.boxes.shape == (3, length, 4)
    assert targets.labels.shape == targets.is_object.shape == targets.is_crowd.shape == (3, length)
    for row, count in enumerate((most, 0, min(most, 2))):
        boxes, labels, is_crowd = truth(count)
        assert torch.equal(targets.boxes[row, :count], boxes) and torch.equal(targets.labels[row, :count], labels)
        assert torch.equal(targets.is_crowd[row, :count], is_crowd)
        assert torch.equal(targets.is_object[row, :count], ~is_crowd)
        # A padding row is in neither mask, and its box has an area.
        assert not targets.is_object[row, count:].any() and not targets.is_crowd[row, count:].any()
        assert targets.boxes[row, count:].tolist() == [[0, 0, 1, 1]] * (length - count)
        assert not targets.labels[row, count:].any()


# ---- the same batches, whatever the machinery


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(cfg_of, workers):
    cfg, other = cfg_of(AUGMENT), cfg_of(AUGMENT, f"data.workers={workers}")
    data = load_train_data(cfg)
    assert_same(
        train_loader(cfg, data, start=0, stop=9, pin_memory=False),
        train_loader(other, data, start=0, stop=9, pin_memory=False),
    )


@pytest.mark.parametrize("start", [1, 5, 8])
def test_going_on_later_gives_the_same_batches(cfg_of, start):
    cfg = cfg_of(AUGMENT)
    data = load_train_data(cfg)
    whole = list(train_loader(cfg, data, start=0, stop=9, pin_memory=False))
    torch.manual_seed(99)  # the state of the run must not matter
    assert_same(whole[start:], train_loader(cfg, data, start=start, stop=9, pin_memory=False))


def test_augmentation_depends_on_seed_epoch_and_image_alone(cfg_of):
    cfg, wide = cfg_of(AUGMENT), cfg_of(AUGMENT, "train.batch_size=6")
    data = load_train_data(cfg)

    def images_of(cfg, stop):
        plan, found = train_plan(cfg, data), {}
        for batch in train_loader(cfg, data, start=0, stop=stop, pin_memory=False):
            for row, sample in enumerate(next(plan)):
                height, width = batch.image_sizes[row].tolist()
                found[sample.epoch, sample.index] = batch.images[row, :, :height, :width]
        return found

    in_fours, in_sixes = images_of(cfg, 12), images_of(wide, 8)
    common = in_fours.keys() & in_sixes.keys()
    assert len(common) > 24
    assert all(torch.equal(in_fours[key], in_sixes[key]) for key in common)

    def differ(a, b):
        return a.shape != b.shape or not torch.equal(a, b)

    first, second = (
        {index: image for (epoch, index), image in in_fours.items() if epoch == number} for number in (0, 1)
    )
    both = first.keys() & second.keys()
    assert len(both) > 12 and all(differ(first[index], second[index]) for index in both)
    reseeded = images_of(cfg_of(AUGMENT, "train.seed=1"), 6)
    both = in_fours.keys() & reseeded.keys()
    assert len(both) > 12 and all(differ(in_fours[key], reseeded[key]) for key in both)


@pytest.mark.parametrize("workers", [0, 1])
def test_random_state_of_the_run_is_untouched(cfg_of, workers):
    cfg = cfg_of(AUGMENT, f"data.workers={workers}")
    data = load_train_data(cfg)
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert len(list(train_loader(cfg, data, start=0, stop=3, pin_memory=False))) == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_image_that_is_cropped_away_leaves_an_empty_row():
    image = torch.full((3, 64, 96), 9, dtype=torch.uint8)
    batch = collate([(PlannedImage(3, 0, 64, 96, SHAPE), Sample(image, *NO_OBJECTS), (10, 20))])
    assert batch.image_indices == (3,) and batch.original_sizes.tolist() == [[10, 20]]
    assert not batch.targets.is_object.any() and batch.targets.boxes.shape == (1, 8, 4)


def test_batch_leaves_a_worker_as_bytes_but_for_the_images(cfg_of):
    cfg = cfg_of(AUGMENT)
    (batch,) = train_loader(cfg, load_train_data(cfg), start=3, stop=4, pin_memory=False)
    shared = []

    class Watching(ForkingPickler):
        def reducer_override(self, value):
            if isinstance(value, torch.Tensor):
                shared.append(value.shape)
            return NotImplemented

    sent = io.BytesIO()
    Watching(sent, pickle.HIGHEST_PROTOCOL).dump(Parcel(batch))
    assert shared == [batch.images.shape]
    arrived = pickle.loads(sent.getvalue())
    assert type(arrived) is Batch and type(arrived.targets) is Targets
    assert_same([arrived], [batch])
    reported = batch._replace(unreadable=(Unreadable(3, 1, 7, "gone"),))
    assert pickle.loads(ForkingPickler.dumps(Parcel(reported))).unreadable == reported.unreadable


def test_images_of_a_worker_lie_in_shared_memory_from_the_start(cfg_of, monkeypatch):
    item = (PlannedImage(3, 0, 64, 96, SHAPE), Sample(torch.ones(3, 50, 96, dtype=torch.uint8), *NO_OBJECTS), (10, 20))
    here = collate([item])
    monkeypatch.setattr("retinanet.data.loader.get_worker_info", object)
    there = collate([item])
    assert there.images.is_shared() and not here.images.is_shared()
    assert_same([here], [there])


# ---- reading


def record_of(path, height, width, boxes=((1, 1, 5, 4),)):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Record(str(path), 1, height, width, boxes, np.zeros(len(boxes), np.int64), np.zeros(len(boxes), bool))


def pictures(*records, steps=()):
    return SampleReader(list(records), list(steps), seed=0, max_pixels=MAX_PIXELS)


@pytest.fixture
def turned(tmp_path):
    """A PNG stored 10 wide and 6 high, shown turned by a quarter: 6 wide and 10 high. Its pixels as stored."""
    pixels = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    return tmp_path / "turned.png", pixels


def test_boxes_on_the_shown_image_get_the_shown_image(turned):
    path, stored = turned
    image = pictures(record_of(path, 10, 6)).read(0).image
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.rot90(stored, -1))


def test_boxes_on_the_stored_image_get_the_stored_image(turned):
    path, stored = turned
    image = pictures(record_of(path, 6, 10)).read(0).image
    assert np.array_equal(image.permute(1, 2, 0).numpy(), stored)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (10, 10), (12, 20), (5, 10)])
def test_other_sizes_are_refused(turned, height, width):
    path, _ = turned
    with pytest.raises(InputError) as caught:
        pictures(record_of(path, height, width)).read(0)
    assert str(caught.value).startswith(
        f"{path}: is 6x10, but its annotations say {width}x{height}; its boxes would be in the wrong place"
    )


def test_swapped_size_without_a_turn_is_refused(tmp_path):
    Image.new("RGB", (10, 6)).save(tmp_path / "plain.png")
    with pytest.raises(InputError, match="is 10x6, but its annotations say 6x10"):
        pictures(record_of(tmp_path / "plain.png", 10, 6)).read(0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm", ["cut off", "no image", "missing"])
def test_broken_image_is_an_input_error_where_it_stands(tmp_path, workers, harm):
    records = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
        records.append(record_of(path, 48, 64))
    broken = tmp_path / "2.png"
    if harm == "missing":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:3000] if harm == "cut off" else b"hello, no image")
    plan = [[PlannedImage(index, 0, 64, 96, SHAPE)] for index in range(4)]
    loader = make_loader(
        pictures(*records, steps=[Resize()]), plan, workers=workers, pin_memory=False, replace_unreadable=False
    )
    assert [next(loader).image_indices for _ in range(2)] == [(0,), (1,)]
    with pytest.raises(InputError) as caught:
        next(loader)
    message = str(caught.value)
    assert message.startswith(f"{broken}: ") and "\n" not in message
    assert "Traceback" not in message and "worker" not in message.lower()


def test_one_broken_image_refuses_its_whole_batch(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "good.png")
    data = pictures(
        record_of(tmp_path / "good.png", 48, 64), record_of(tmp_path / "gone.png", 48, 64), steps=[Resize()]
    )
    loader = make_loader(
        data,
        [[PlannedImage(i, 0, 64, 96, SHAPE) for i in (0, 1)]],
        workers=0,
        pin_memory=False,
        replace_unreadable=False,
    )
    with pytest.raises(InputError, match=r"gone\.png: No such file"):
        next(loader)


def test_jittered_images_fit_their_canvas(tmp_path):
    Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "a.png")
    data = pictures(record_of(tmp_path / "a.png", 48, 64), steps=[ScaleJitter(0.5, 3.0)])
    plan = [[PlannedImage(0, epoch, 64, 96, SHAPE)] for epoch in range(20)]
    sizes = [
        tuple(b.image_sizes[0].tolist())
        for b in make_loader(data, plan, workers=0, pin_memory=False, replace_unreadable=False)
    ]
    assert len(set(sizes)) > 2 and max(h for h, _ in sizes) == 64 and max(w for _, w in sizes) == 96


def test_the_host_knows_whether_there_is_a_crowd():
    box, label = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0])
    objects, crowd = (box, label, torch.tensor([False])), (box, label, torch.tensor([True]))
    assert not pad_targets([objects, objects]).has_crowd
    assert pad_targets([objects, crowd]).has_crowd
