import pytest

from retinanet.config.load import load_config
from retinanet.data.build import build_eval_sampler, load_train_data, load_val_data
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
    """Both sides have boxes of their own images, and together they are all images of the file."""
    whole = load_train_data(load())
    cfg = load("data.val=[]", "data.val_fraction=0.4")
    train = load_train_data(cfg)
    val = load_val_data(cfg, train.class_names)
    assert sorted([*train.image_ids, *val.image_ids]) == sorted(whole.image_ids)
    assert 0 < len(val) < len(whole)
    assert len(train.boxes) + len(val.boxes) == len(whole.boxes)


def test_held_out_part_keeps_images_without_objects(load):
    """Training may skip them; evaluation needs them, because detections there are false."""
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
