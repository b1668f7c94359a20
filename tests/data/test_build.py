import numpy as np
import pytest

from retinanet.config.load import load_config
from retinanet.data.build import class_counts, eval_plan, first_images, load_val_data
from retinanet.formats.coco import CocoData, Record


@pytest.fixture
def load(tiny_overrides):
    return lambda *overrides: load_config("quickstart", [*tiny_overrides, *overrides])


def test_the_first_images_are_a_whole_data_set(load):
    cfg = load()
    data = load_val_data(cfg, ("disc", "ring", "rectangle", "triangle", "star", "cross"))
    few = first_images(data, 3)
    ids = [record.image_id for record in data.records[:3]]
    assert [record.image_id for record in few.records] == ids
    assert [image["id"] for image in few.ground_truth["images"]] == ids
    assert {item["image_id"] for item in few.ground_truth["annotations"]} <= set(ids)
    boxes = sum(len(record.boxes) for record in few.records)
    assert len(few.ground_truth["annotations"]) == boxes > 0
    assert few.class_names == data.class_names
    assert len(data.records) == 8  # and the whole one is as it was


@pytest.mark.parametrize(("overrides", "most"), [((), 4), (("train.eval_batch_size=3",), 3)])
def test_images_evaluated_at_once(load, overrides, most):
    cfg = load(*overrides)
    data = load_val_data(cfg, ("disc", "ring", "rectangle", "triangle", "star", "cross"))
    plan = eval_plan(cfg, data)
    assert max(map(len, plan)) == most
    assert sorted(sample.index for batch in plan for sample in batch) == list(range(8))


def record(labels, is_crowd):
    boxes = np.zeros((len(labels), 4), np.float32)
    return Record("", 1, 8, 8, boxes, np.array(labels, np.int64), np.array(is_crowd, bool))


def test_objects_are_counted_and_crowds_are_not():
    records = [record([0, 2, 2], [False, False, True]), record([], []), record([2, 0, 0], [False] * 3)]
    assert class_counts(CocoData(records, ("a", "b", "c", "d"), (1, 2, 3, 4), {})) == [3, 0, 2, 0]
    assert class_counts(CocoData([record([], [])], ("a", "b"), (1, 2), {})) == [0, 0]
