import io
import itertools
import pickle
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.config.load import load_config
from retinanet.data.build import (
    build_eval_sampler,
    build_padded_shapes,
    build_train_sampler,
    eval_loader,
    eval_shorter,
    load_train_data,
    load_val_data,
    train_loader,
)
from retinanet.data.loader import WorkerBatch, make_loader
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.sample import Sample
from retinanet.data.transforms.sizing import Resize, ScaleJitter, resize_as_planned
from retinanet.errors import InputError
from retinanet.structures import Batch, Targets, Unreadable
from tests.helpers.batches import assert_same_batches, reader_of
from tests.helpers.datasets import image_record

SHAPE = (64, 96)
AUGMENT = "data.transforms=[{type: scale_jitter, min: 0.7, max: 1.5}, {type: flip}, {type: color, hue: 0.1}]"


@pytest.fixture
def cfg_of(tiny_overrides):
    return lambda *overrides: load_config("quickstart", [*tiny_overrides, *overrides])


# ---- contents of a batch


def test_batches_follow_the_sampler(cfg_of):
    cfg = cfg_of()
    data = load_train_data(cfg)
    sampler = build_train_sampler(cfg, data)
    for batch in train_loader(cfg, data, start=0, stop=6, pin_memory=False):
        planned_images = next(sampler)
        assert batch.image_indices == tuple(planned.index for planned in planned_images)
        assert batch.images.shape == (4, 3, *planned_images[0].padded_shape) and batch.images.dtype == torch.uint8
        for row, index in enumerate(batch.image_indices):
            record = data.image(index)
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


def test_evaluation_reads_each_image_once_and_only_resizes_it(cfg_of):
    cfg = cfg_of(AUGMENT)
    data = load_val_data(cfg, load_train_data(cfg).class_names)
    planned_batches = build_eval_sampler(cfg, data)
    batches = list(eval_loader(cfg, data, planned_batches, pin_memory=False))
    assert len(batches) == len(planned_batches)
    assert sorted(index for batch in batches for index in batch.image_indices) == list(range(8))
    for batch in batches:
        for row, index in enumerate(batch.image_indices):
            record = data.image(index)
            with Image.open(record.path) as image:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            sample = Sample(pixels, torch.from_numpy(record.boxes), torch.zeros(0), torch.zeros(0))
            shape = tuple(batch.images.shape[-2:])
            expected = resize_as_planned(sample, PlannedImage(index, 0, 64, 96, shape, shape))
            height, width = batch.image_sizes[row].tolist()
            assert torch.equal(batch.images[row, :, :height, :width], expected.image)
            assert torch.equal(batch.targets.boxes[row, : len(record.boxes)], expected.boxes)


def test_shorter_side_of_evaluation(cfg_of):
    assert eval_shorter(cfg_of("data.resize.shorter=[48, 80, 64]").data) == 80
    assert eval_shorter(cfg_of("data.resize.val_shorter=72").data) == 72
    cfg = cfg_of("data.resize.val_shorter=72")
    data = load_val_data(cfg, load_train_data(cfg).class_names)
    assert {planned.shorter for batch in build_eval_sampler(cfg, data) for planned in batch} == {72}
    assert build_padded_shapes(cfg.data).longer == 96


# ---- reproducibility


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(cfg_of, workers):
    cfg, other = cfg_of(AUGMENT), cfg_of(AUGMENT, f"data.workers={workers}")
    data = load_train_data(cfg)
    assert_same_batches(
        train_loader(cfg, data, start=0, stop=9, pin_memory=False),
        train_loader(other, data, start=0, stop=9, pin_memory=False),
    )


@pytest.mark.parametrize("start", [1, 5, 8])
def test_starting_later_gives_the_same_batches(cfg_of, start):
    cfg = cfg_of(AUGMENT)
    data = load_train_data(cfg)
    whole = list(train_loader(cfg, data, start=0, stop=9, pin_memory=False))
    torch.manual_seed(99)  # the global random state must not matter
    assert_same_batches(whole[start:], train_loader(cfg, data, start=start, stop=9, pin_memory=False))


def test_augmentation_depends_only_on_seed_epoch_and_image(cfg_of):
    cfg, wide = cfg_of(AUGMENT), cfg_of(AUGMENT, "train.batch_size=6")
    data = load_train_data(cfg)

    def images_of(cfg, stop):
        sampler, images = build_train_sampler(cfg, data), {}
        for batch in train_loader(cfg, data, start=0, stop=stop, pin_memory=False):
            for row, planned in enumerate(next(sampler)):
                height, width = batch.image_sizes[row].tolist()
                images[planned.epoch, planned.index] = batch.images[row, :, :height, :width]
        return images

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
def test_loading_leaves_the_global_random_state_unchanged(cfg_of, workers):
    cfg = cfg_of(AUGMENT, f"data.workers={workers}")
    data = load_train_data(cfg)
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert len(list(train_loader(cfg, data, start=0, stop=3, pin_memory=False))) == 3
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


# ---- worker processes


def test_worker_sends_only_the_images_through_shared_memory(cfg_of):
    cfg = cfg_of(AUGMENT)
    (batch,) = train_loader(cfg, load_train_data(cfg), start=3, stop=4, pin_memory=False)
    shared = []

    class TensorRecorder(ForkingPickler):
        def reducer_override(self, value):
            if isinstance(value, torch.Tensor):
                shared.append(value.shape)
            return NotImplemented

    sent = io.BytesIO()
    TensorRecorder(sent, pickle.HIGHEST_PROTOCOL).dump(WorkerBatch(batch))
    assert shared == [batch.images.shape]
    received = pickle.loads(sent.getvalue())
    assert type(received) is Batch and type(received.targets) is Targets
    assert_same_batches([received], [batch])
    with_report = batch._replace(unreadable=(Unreadable(3, 1, 7, "gone"),))
    assert pickle.loads(ForkingPickler.dumps(WorkerBatch(with_report))).unreadable == with_report.unreadable


# ---- unreadable images


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "not an image", "missing"])
def test_unreadable_image_raises_when_its_batch_is_due(tmp_path, workers, damage):
    records = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
        records.append(image_record(path, 48, 64))
    broken = tmp_path / "2.png"
    if damage == "missing":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:3000] if damage == "truncated" else b"hello, no image")
    batches = [[PlannedImage(index, 0, 64, 96, SHAPE, SHAPE)] for index in range(4)]
    loader = make_loader(
        reader_of(*records, transforms=[Resize()]), batches, workers=workers, pin_memory=False, replace_unreadable=False
    )
    assert [next(loader).image_indices for _ in range(2)] == [(0,), (1,)]
    with pytest.raises(InputError) as caught:
        next(loader)
    message = str(caught.value)
    assert message.startswith(f"{broken}: ") and "\n" not in message
    assert "Traceback" not in message and "worker" not in message.lower()


def test_one_unreadable_image_fails_its_whole_batch(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "good.png")
    data = reader_of(
        image_record(tmp_path / "good.png", 48, 64), image_record(tmp_path / "gone.png", 48, 64), transforms=[Resize()]
    )
    loader = make_loader(
        data,
        [[PlannedImage(i, 0, 64, 96, SHAPE, SHAPE) for i in (0, 1)]],
        workers=0,
        pin_memory=False,
        replace_unreadable=False,
    )
    with pytest.raises(InputError, match=r"gone\.png: No such file"):
        next(loader)


def test_error_names_the_step_that_needs_the_image(cfg_of):
    cfg = cfg_of("train.accumulate=2")
    data = load_train_data(cfg)
    missing = [next(itertools.islice(build_train_sampler(cfg, data), 4, None))[row].index for row in range(4)]
    paths = [f"{path}.gone" if index in missing else path for index, path in enumerate(data.paths)]
    data = replace(data, paths=tuple(paths))
    loader = train_loader(cfg, data, start=3, stop=6, pin_memory=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retinanet.data.reader.MAX_REPLACEMENTS", 0)
        assert len([next(loader) for _ in range(2)]) == 2
        with pytest.raises(InputError, match=r"^step 5: .*\.gone: No such file"):
            next(loader)


def test_jittered_images_fit_their_padded_shape(tmp_path):
    Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "a.png")
    data = reader_of(image_record(tmp_path / "a.png", 48, 64), transforms=[ScaleJitter(0.5, 3.0)])
    batches = [[PlannedImage(0, epoch, 64, 96, SHAPE, SHAPE)] for epoch in range(20)]
    sizes = [
        tuple(b.image_sizes[0].tolist())
        for b in make_loader(data, batches, workers=0, pin_memory=False, replace_unreadable=False)
    ]
    assert len(set(sizes)) > 2 and max(h for h, _ in sizes) == 64 and max(w for _, w in sizes) == 96
