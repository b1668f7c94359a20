import pytest

from retinanet.config.load import load_config
from retinanet.data.build import build_eval_sampler, load_val_data


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
