"""With any augmentation and sampler, batches do not depend on the step at which a run resumes."""

import json

import pytest
import torch
from torchvision.transforms import v2

from retinanet.config import Config
from retinanet.data.build import build_train_sampler, images_per_epoch, load_train_data, train_loader
from tests.helpers.batches import assert_same_batches
from tests.helpers.tiny_runs import write_tiny_dataset

RESIZE = {"type": "resize"}
ALONE = [
    *({"type": name, "p": 1.0} for name in ("vertical_flip", "rotate90", "iou_crop", "zoom_out", "photometric")),
    *({"type": name, "p": 1.0} for name in ("blur", "erase", "mosaic", "mixup", "copy_paste")),
    {"type": "crop", "size": [24, 24]},
]
TRANSFORMS = {entry["type"]: [entry, RESIZE] for entry in ALONE}
TRANSFORMS["large-scale jitter"] = [{"type": "scale_jitter", "min": 0.1, "max": 2.0}]
EVERYTHING = [
    *({"type": name} for name in ("mosaic", "mixup", "copy_paste", "iou_crop", "rotate90")),
    {"type": "scale_jitter", "min": 0.1, "max": 2.0},
    *({"type": name} for name in ("vertical_flip", "zoom_out", "photometric", "blur", "erase")),
]
SAMPLERS = {
    "all": {"type": "all"},
    "repeat_factor": {"type": "repeat_factor", "threshold": 1.0},
    "class_aware": {"type": "class_aware"},
}
STEPS = 10  # over three epochs of 6 images


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "train")


def config(source, transforms, *, sampling="all", batch_size=2, workers=0, **data):
    values = {
        "data": {
            "train": [source],
            "resize": {"shorter": [24, 32], "longer": 48, "divisor": 8},
            "transforms": transforms,
            "sampling": SAMPLERS[sampling],
            "workers": workers,
            **data,
        },
        "train": {"steps": STEPS, "batch_size": batch_size},
    }
    return Config.model_validate_json(json.dumps(values))


def batches(cfg, data, *, start=0, stop=STEPS):
    return list(train_loader(cfg, data, start=start, stop=stop, pin_memory=False))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_augmentation_resumes_exactly(source, name):
    cfg = config(source, TRANSFORMS[name])
    data = load_train_data(cfg)
    whole = batches(cfg, data)
    plain = batches(config(source, [RESIZE]), data)
    assert any(not torch.equal(batch.images, other.images) for batch, other in zip(whole, plain, strict=True))
    for start in (3, 8):
        torch.manual_seed(start)  # the global random state must not matter
        assert_same_batches(whole[start:], batches(cfg, data, start=start))


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_all_augmentations_with_each_sampler_resume_exactly_from_any_step(source, sampling):
    cfg = config(source, EVERYTHING, sampling=sampling, batch_size=3, close_last_epochs=2)
    data = load_train_data(cfg)
    whole = batches(cfg, data)
    for start in range(1, STEPS):
        assert_same_batches(whole[start : start + 1], batches(cfg, data, start=start, stop=start + 1))
    assert_same_batches(whole, batches(config(source, EVERYTHING, sampling=sampling, batch_size=3, workers=2,
                                              close_last_epochs=2), data))  # fmt: skip


def test_transforms_from_python_follow_those_of_the_config(source):
    cfg = config(source, [RESIZE])
    data = load_train_data(cfg)
    options = {"stop": STEPS, "pin_memory": False, "extra_transforms": [v2.RandomAffine(30), v2.RandomGrayscale(1.0)]}
    whole, plain = list(train_loader(cfg, data, start=0, **options)), batches(cfg, data)
    assert all(torch.equal(batch.image_sizes, other.image_sizes) for batch, other in zip(whole, plain, strict=True))
    assert any(not torch.equal(a.targets.boxes, b.targets.boxes) for a, b in zip(whole, plain, strict=True))
    assert all(torch.equal(batch.images[:, 0], batch.images[:, 1]) for batch in whole)  # grey
    assert_same_batches(whole[4:], train_loader(cfg, data, start=4, **options))


@pytest.mark.parametrize("sampling", ["repeat_factor", "class_aware"])
def test_repeated_images_are_augmented_differently(source, sampling):
    cfg = config(source, [{"type": "scale_jitter", "min": 0.5, "max": 2.0}], sampling=sampling, batch_size=4)
    data = load_train_data(cfg)
    sampler, seen = build_train_sampler(cfg, data), {}
    for batch in batches(cfg, data):
        for row, planned in enumerate(next(sampler)):
            seen.setdefault((planned.epoch, planned.index), []).append(batch.images[row].numpy().tobytes())
    assert any(len(images) > 1 for images in seen.values())
    assert all(len(set(images)) == len(images) for images in seen.values())


def test_last_epochs_are_without_strong_transforms(source):
    strong = [{"type": "mosaic", "p": 1.0}, RESIZE]
    closed = config(source, strong, close_last_epochs=2)  # 20 images are 3.3 epochs, rounded to 3; the first is strong
    data = load_train_data(closed)
    assert images_per_epoch(closed, data) == 6
    assert_same_batches(batches(closed, data)[:3], batches(config(source, strong), data)[:3])
    assert_same_batches(batches(closed, data)[3:], batches(config(source, [RESIZE]), data)[3:])


def test_closing_too_many_epochs_is_logged(source, caplog):
    cfg = config(source, [{"type": "mosaic", "p": 1.0}, RESIZE], close_last_epochs=9)
    data = load_train_data(cfg)
    assert_same_batches(batches(cfg, data), batches(config(source, [RESIZE]), data))
    assert "data.close_last_epochs is 9, and the run has no more epochs" in caplog.text
