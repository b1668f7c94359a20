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
from retinanet.errors import InputError


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


def test_held_out_part_and_the_rest_are_the_training_set(load):
    """Both parts keep the boxes of their images, and together they contain all images of the file."""
    whole = load_train_data(load())
    cfg = load("data.val=[]", "data.val_fraction=0.4")
    train = load_train_data(cfg)
    val = load_val_data(cfg, train.class_names)
    assert sorted([*train.image_ids, *val.image_ids]) == sorted(whole.image_ids)
    assert 0 < len(val) < len(whole)
    assert len(train.boxes) + len(val.boxes) == len(whole.boxes)


def test_held_out_part_keeps_images_without_objects(load):
    """Training may skip them; evaluation needs them, because all detections in them are false."""
    kept, skipped = (load("data.val=[]", "data.val_fraction=0.4", f"data.keep_empty={k}") for k in ("true", "false"))
    names = load_train_data(kept).class_names
    assert load_val_data(kept, names).image_ids == load_val_data(skipped, names).image_ids


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.val_fraction=0.2", "val and val_fraction are both set"),
        ("data.val_group=folder", "val_group has no effect without val_fraction"),
        ("data.val_group=(", "is not a regular expression"),
        ("data.val_fraction=1", "val_fraction: found 1 "),
    ],
)
def test_contradictory_split(load, override, message):
    with pytest.raises(InputError, match=message):
        load(override)


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
