"""Training data in which only some classes were checked in each image."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from retinanet.config import Config, LossConfig
from retinanet.data.build import (
    build_eval_sampler,
    build_uses,
    eval_loader,
    load_train_data,
    load_val_data,
    train_loader,
)
from retinanet.engine.best import check_measurable
from retinanet.errors import InputError
from retinanet.losses.configured_weights import with_class_weights
from tests.helpers.batches import assert_same_batches
from tests.helpers.coco_files import warnings_in
from tests.helpers.lvis_files import IS_COMPLETE, write_tiny_lvis

RESIZE, JITTER = {"type": "resize"}, {"type": "scale_jitter", "min": 0.1, "max": 2.0}
ALONE = [
    *(
        {"type": name, "p": 1.0}
        for name in ("flip", "vertical_flip", "rotate90", "iou_crop", "zoom_out", "blur", "erase")
    ),
    {"type": "photometric", "p": 1.0},
    {"type": "color", "brightness": 0.2},
    {"type": "crop", "size": [24, 24]},
]
COMBINING = [{"type": name, "p": 0.5} for name in ("mosaic", "mixup", "copy_paste")]
STEPS = 9


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_tiny_lvis(tmp_path_factory.mktemp("data") / "lvis")


def config(source, transforms=(RESIZE,), *, model=None, loss=None, **data):
    values = {
        "data": {
            "train": [source],
            "resize": {"shorter": [24, 32], "longer": 48, "divisor": 8},
            "transforms": list(transforms),
            "workers": 0,
            **data,
        },
        "model": model or {},
        "loss": loss or {},
        "train": {"steps": STEPS, "batch_size": 2},
    }
    return Config.model_validate_json(json.dumps(values))


def batches(cfg, data, **options):
    return list(train_loader(cfg, data, **{"start": 0, "stop": STEPS, "pin_memory": False, **options}))


def rows_of(batch):
    """The image ids of a batch, with the complete classes of each image."""
    return list(zip([index + 1 for index in batch.image_indices], batch.targets.is_complete.tolist(), strict=True))


@pytest.mark.parametrize("transforms", [[RESIZE], [*ALONE, RESIZE], [JITTER]], ids=["resized", "augmented", "scaled"])
def test_each_image_keeps_its_complete_classes(source, transforms):
    """Classes were checked in the whole image, so they stay complete in any crop."""
    cfg = config(source, transforms)
    seen = [
        row
        for batch in batches(cfg, load_train_data(cfg), extra_transforms=[v2.RandomIoUCrop()])
        for row in rows_of(batch)
    ]
    assert {number for number, _ in seen} == set(IS_COMPLETE)
    assert all(complete == IS_COMPLETE[number] for number, complete in seen)


def test_combined_images_have_fewer_complete_classes_than_their_parts(source):
    cfg = config(source, [*({**entry, "p": 1.0} for entry in COMBINING), RESIZE])
    seen = [row for batch in batches(cfg, load_train_data(cfg)) for row in rows_of(batch)]
    for number, complete in seen:
        assert not (np.array(complete) & ~np.array(IS_COMPLETE[number])).any()
    assert any(complete != IS_COMPLETE[number] for number, complete in seen)


@pytest.mark.parametrize("sampling", [{"type": "all"}, {"type": "repeat_factor", "threshold": 1.0}])
def test_batches_are_the_same_in_workers_and_after_resuming(source, sampling):
    transforms = [*COMBINING, *ALONE, RESIZE]
    cfg = config(source, transforms, sampling=sampling)
    data = load_train_data(cfg)
    whole = batches(cfg, data)
    assert all(batch.targets.is_complete.shape == (2, 3) for batch in whole)
    for start in (1, 4, 8):
        assert_same_batches(whole[start:], batches(cfg, data, start=start))
    if sampling["type"] != "all":
        assert_same_batches(whole, batches(config(source, transforms, sampling=sampling, workers=1), data))


def test_evaluation_batches_contain_the_complete_classes(source):
    cfg = config(source, val=[source])
    data = load_val_data(cfg, ("cat", "dog", "cow"))
    rows = [
        row
        for batch in eval_loader(cfg, data, build_eval_sampler(cfg, data), pin_memory=False)
        for row in rows_of(batch)
    ]
    assert dict(rows) == IS_COMPLETE


def test_images_without_boxes_can_be_skipped(source):
    """Image 2 has none; the others keep their complete classes."""
    data = load_train_data(config(source, keep_empty=False))
    assert data.image_ids == (1, 3, 4, 5, 6)
    assert [data.image(index).is_complete.tolist() for index in range(5)] == [IS_COMPLETE[n] for n in data.image_ids]
    assert len(load_train_data(config(source))) == 6


def test_held_out_images_keep_their_classes(source):
    cfg = config(source, val_fraction=0.4)
    train = load_train_data(cfg)
    val = load_val_data(cfg, train.class_names)
    assert len(train) and len(val) and sorted([*train.image_ids, *val.image_ids]) == sorted(IS_COMPLETE)
    for data in (train, val):
        known = {number: data.image(index).is_complete.tolist() for index, number in enumerate(data.image_ids)}
        assert known == {number: IS_COMPLETE[number] for number in data.image_ids}


def test_sampling_counts_annotated_objects_only(source):
    data = load_train_data(config(source))
    # A cat is in 2 of 6 images, a dog in 3: with the threshold 1, their images are used sqrt(3) and sqrt(2) times.
    cfg = config(source, sampling={"type": "repeat_factor", "threshold": 1.0}).data
    cat, dog = 3**0.5, 2**0.5
    np.testing.assert_allclose(build_uses(cfg, data), [dog, 1, dog, cat, dog, cat], rtol=1e-12)
    cfg = config(source, sampling={"type": "class_aware"}).data
    # Image 2 is used once. Half of the other 5 uses are for the 2 images with cats, half for the 3 with dogs.
    np.testing.assert_allclose(build_uses(cfg, data), [5 / 6, 1, 5 / 6, 5 / 4, 5 / 6, 5 / 4], rtol=1e-12)


def test_class_weights_count_annotated_objects_only(source):
    data = load_train_data(config(source))
    assert data.object_counts() == [2, 4, 0]
    loss = LossConfig.model_validate({"classification": {"type": "focal", "alpha": "inverse_frequency"}})
    # m / (m + n) with the counts 2, 4, and 1 for none, and their mean m = 7/3
    expected = [7 / 13, 7 / 19, 7 / 10]
    assert with_class_weights(loss, data.object_counts()).classification.alpha == pytest.approx(expected)


def test_best_metric_must_be_measurable(source, caplog):
    data = load_train_data(config(source))
    caplog.clear()
    check_measurable("AP", data, early_stop=2)
    check_measurable("loss", data, early_stop=2)
    assert not warnings_in(caplog)
    with pytest.raises(InputError, match=r"none of its 6 object\(s\) counts towards APl, so APl cannot be measured"):
        check_measurable("APl", data, early_stop=2)  # all are smaller than 96 x 96


SOFTMAX = {"model": {"class_activation": "softmax"}, "loss": {"classification": {"type": "softmax_focal"}}}


def test_softmax_is_refused(source):
    message = r"lvis\.json has LVIS annotations.*background score.*set model\.class_activation=sigmoid and loss\.class"
    with pytest.raises(InputError, match=r"^data\.train: .*" + message):
        load_train_data(config(source, **SOFTMAX))
    with pytest.raises(InputError, match=r"^data\.val: .*" + message):
        load_val_data(config(source, val=[source], **SOFTMAX), ("cat", "dog", "cow"))


def test_transforms_that_combine_images_cause_a_warning(source, caplog):
    cfg = config(source, [*COMBINING, RESIZE])
    data = load_train_data(cfg)
    caplog.clear()
    next(train_loader(cfg, data, start=0, stop=1, pin_memory=False))
    (warning,) = warnings_in(caplog)
    assert warning.startswith(
        "data.transforms has mosaic, mixup, copy_paste: with LVIS annotations, a combined image is "
    )
    caplog.clear()
    next(train_loader(cfg, replace(data, federated=None), start=0, stop=1, pin_memory=False))
    next(train_loader(config(source), data, start=0, stop=1, pin_memory=False))
    assert not warnings_in(caplog)


def test_complete_annotations_have_no_mask(source):
    cfg = config(source, [*COMBINING, RESIZE])
    data = replace(load_train_data(cfg), federated=None)
    for plain, masked in zip(batches(cfg, data), batches(cfg, load_train_data(cfg)), strict=True):
        assert plain.targets.is_complete is None and len(plain.targets.tensors()) == 4
        assert all(torch.equal(a, b) for a, b in zip(plain.tensors(), masked.tensors()[:-1], strict=True))
