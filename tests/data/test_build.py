import math

import pytest

from retinanet.config.load import load_config
from retinanet.data.build import (
    build_eval_sampler,
    build_uses,
    closing_epoch,
    images_per_epoch,
    load_train_data,
    load_val_data,
)


@pytest.fixture
def load(tiny_overrides):
    return lambda *overrides: load_config("quickstart", [*tiny_overrides, *overrides])


def test_first_images_are_a_complete_dataset(load):
    cfg = load()
    data = load_val_data(cfg, ("disc", "ring", "rectangle", "triangle", "star", "cross"))
    few = data.first(3)
    assert few.image_ids == data.image_ids[:3]
    assert len(few) == len(few.box_start) - 1 == 3
    assert len(few.areas) == len(few.boxes) > 0
    assert few.class_names == data.class_names
    assert len(data) == 8  # unchanged


@pytest.mark.parametrize(("overrides", "most"), [((), 4), (("train.eval_batch_size=3",), 3)])
def test_evaluation_batch_size(load, overrides, most):
    cfg = load(*overrides)
    data = load_val_data(cfg, ("disc", "ring", "rectangle", "triangle", "star", "cross"))
    batches = build_eval_sampler(cfg, data)
    assert max(map(len, batches)) == most
    assert sorted(planned.index for batch in batches for planned in batch) == list(range(8))


# ---- sampling and the length of an epoch


def test_images_per_epoch(load):
    cfg = load()
    data = load_train_data(cfg)
    assert build_uses(cfg.data, data) is None and images_per_epoch(cfg, data) == 24
    aware = load("data.sampling={type: class_aware}", "train.batch_size=5")
    assert build_uses(aware.data, data).sum() == pytest.approx(24) and images_per_epoch(aware, data) == 25
    repeated = load("data.sampling={type: repeat_factor, threshold: 1.0}")
    factors = build_uses(repeated.data, data)
    assert factors.min() >= 1 and factors.max() > 1
    assert images_per_epoch(repeated, data) == 4 * math.ceil(factors.sum() / 4)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.steps=60"], None),
        (["train.steps=60", "data.close_last_epochs=3"], 7),  # 60 steps of 4 are 240 images, 10 epochs
        (["train.steps=62", "data.close_last_epochs=3"], 7),  # 10.33 epochs
        (["train.steps=null", "train.epochs=12.0", "data.close_last_epochs=2"], 10),
        (["train.steps=null", "train.epochs=2.0", "data.close_last_epochs=2"], 0),
        (["train.steps=null", "train.epochs=2.0", "data.close_last_epochs=9"], 0),
    ],
)
def test_closing_epoch(load, overrides, expected):
    cfg = load(*overrides)
    assert closing_epoch(cfg, load_train_data(cfg)) == expected
