import json

import pytest
from pydantic import ValidationError

from retinanet.config import (
    AnchorConfig,
    ATSSAssignmentConfig,
    AugmentConfig,
    Config,
    CrossEntropyConfig,
    DataConfig,
    FlipTransform,
    FocalConfig,
    FocalStarConfig,
    IoUAssignmentConfig,
    LossConfig,
    ModelConfig,
    OHEMConfig,
    ResizeConfig,
    ResizeTransform,
    ResNetConfig,
    ScaleJitterTransform,
    SoftmaxFocalConfig,
    StrictModel,
    TrainConfig,
)

MINIMAL = {"train": {"epochs": 1}}


def from_json(model, values):
    return model.model_validate_json(json.dumps(values))


def all_models(model=StrictModel):
    return [subclass for child in model.__subclasses__() for subclass in (child, *all_models(child))]


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.__name__)
def test_every_config_model_is_frozen_and_strict_and_forbids_unknown_keys(model):
    settings = model.model_config
    assert settings["frozen"] and settings["strict"] and settings["extra"] == "forbid"
    assert settings["allow_inf_nan"] is False


def test_config_cannot_be_changed():
    cfg = from_json(Config, MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        cfg.device = "cpu"
    with pytest.raises(ValidationError, match="frozen"):
        cfg.train.epochs = 3
    with pytest.raises(ValidationError, match="frozen"):
        cfg.train.optimizer.lr = 1.0
    hash(cfg)  # fails if a nested value is a mutable list or mapping


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "neither epochs nor steps"),
        ({"epochs": 1, "steps": 2}, "both epochs and steps"),
        ({"epochs": None, "steps": None}, "neither epochs nor steps"),
    ],
)
def test_exactly_one_of_epochs_and_steps_is_required(values, message):
    with pytest.raises(ValidationError, match=message):
        from_json(TrainConfig, values)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (ResNetConfig, {"weights": "none"}, "weights is none and frozen_stages is 2"),
        (ResNetConfig, {"name": "resnet10_half"}, "resnet10_half has no ImageNet weights; set weights: none"),
        (
            ResNetConfig,
            {"name": "resnet34", "stride_in_1x1": True},
            "resnet34 has no 1x1 convolutions; set it",
        ),
        (ModelConfig, {"head_conv_bias": False}, "head_norm is none; set head_conv_bias: true, or head_norm"),
        (ModelConfig, {"head_norm": "group", "channels": 100}, "channels is 100; set a multiple of 32"),
        (ModelConfig, {"anchors": {"sizes": [32, 64]}}, "2 sizes, but 5 levels: p3..p7"),
        (
            ModelConfig,
            {"levels": "p2..p5", "anchors": {"sizes": [8, 16, 32, 64, 128]}},
            "5 sizes, but 4 levels: p2..p5",
        ),
        (
            ModelConfig,
            {"levels": "p2..p5", "anchors": {"strides": [8, 16, 32, 64]}},
            r"strides are \(8, 16, 32, 64\), but the levels p2..p5 \(model.levels\) have \(4, 8, 16, 32\)",
        ),
        (ModelConfig, {"levels": "p2..p5", "p6_from": "p5"}, "p6_from is p5, but the levels p2..p5 have no P6"),
        (ResizeConfig, {"shorter": 800, "longer": 799}, "longer 799 is below shorter 800"),
        (ResizeConfig, {"shorter": [640, 900], "longer": 899}, "longer 899 is below shorter 900"),
        (ResizeConfig, {"shorter": 640, "longer": 700, "val_shorter": 701}, "longer 700 is below shorter 701"),
        (ScaleJitterTransform, {"min": 1.5}, r"min 1.5 is above max 1.25"),
        (IoUAssignmentConfig, {"fg_iou": 0.3}, "bg_iou 0.4 is above fg_iou 0.3"),
        (DataConfig, {"transforms": [{"type": "flip"}]}, "transforms has no resize"),
        (
            Config,
            MINIMAL | {"loss": {"classification": {"type": "softmax_focal"}}},
            "classification.type is softmax_focal and model.class_activation is sigmoid; set .*activation: softmax",
        ),
        (
            Config,
            MINIMAL | {"model": {"class_activation": "softmax"}},
            "classification.type is focal and model.class_activation is softmax; set model.class_activation: sigmoid",
        ),
        (DataConfig, {"transforms": [{"type": "resize"}, {"type": "scale_jitter"}]}, "exactly one of resize and scale"),
        (AugmentConfig, {"scales": [0.5, 1]}, "other than 1, which is always used"),
        (AugmentConfig, {"scales": [0.5, 0.5]}, "expected different numbers"),
    ],
)
def test_contradictory_values_are_refused_by_name(model, values, message):
    with pytest.raises(ValidationError, match=message):
        from_json(model, values)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (ResNetConfig, {"weights": "none", "frozen_stages": 0}),
        (ModelConfig, {"head_norm": "group", "channels": 96}),
        (ModelConfig, {"head_norm": "group", "head_conv_bias": False}),
        (ResizeConfig, {"shorter": 800, "longer": 800}),
        (ScaleJitterTransform, {"min": 1.0, "max": 1.0}),
        (IoUAssignmentConfig, {"fg_iou": 0.4}),
        (
            Config,
            MINIMAL | {"model": {"class_activation": "softmax"}, "loss": {"classification": {"type": "softmax_focal"}}},
        ),
        (TrainConfig, {"epochs": 0.5}),
        (TrainConfig, {"steps": 1}),
        (TrainConfig, {"epochs": None, "steps": 3}),
    ],
)
def test_consistent_limit_values_are_accepted(model, values):
    from_json(model, values)


@pytest.mark.parametrize(
    ("model", "values", "key"),
    [
        (ResizeConfig, {"shorter": []}, "shorter"),
        (DataConfig, {"classes": []}, "classes"),
        (ATSSAssignmentConfig, {"anchors_per_level": 0}, "anchors_per_level"),
        (AnchorConfig, {"scales": []}, "scales"),
        (AnchorConfig, {"aspect_ratios": []}, "aspect_ratios"),
        (AnchorConfig, {"offset": 1.0}, "offset"),
        (ModelConfig, {"prior": 0}, "prior"),
        (FocalConfig, {"alpha": -0.1}, "alpha"),
        (FocalConfig, {"gamma": -1}, "gamma"),
        (FocalStarConfig, {"gamma": 0}, "gamma"),
        (OHEMConfig, {"keep": 0}, "keep"),
        (OHEMConfig, {"nms_iou": 1.1}, "nms_iou"),
        (SoftmaxFocalConfig, {"gamma": -1}, "gamma"),
        (ModelConfig, {"std": [58.0, 0, 57.0]}, "std"),
        (TrainConfig, {"epochs": 1, "batch_size": 0}, "batch_size"),
        (TrainConfig, {"epochs": 0}, "epochs"),
        (TrainConfig, {"epochs": 1, "seed": 2**32}, "seed"),
    ],
)
def test_values_out_of_range_are_refused_by_key(model, values, key):
    with pytest.raises(ValidationError) as caught:
        from_json(model, values)
    assert [error["loc"][0] for error in caught.value.errors()] == [key]


@pytest.mark.parametrize("value", [True, "0.5", None, [0.5], {"p": 0.5}])
def test_float_field_refuses_other_types(value):
    with pytest.raises(ValidationError):
        from_json(FlipTransform, {"p": value})


@pytest.mark.parametrize("value", [True, 8.0, 8.5, "8", None])
def test_integer_field_refuses_other_types(value):
    with pytest.raises(ValidationError):
        from_json(TrainConfig, {"epochs": 1, "batch_size": value})


@pytest.mark.parametrize("value", [1, 0, "true", "yes", None])
def test_boolean_field_refuses_other_types(value):
    with pytest.raises(ValidationError):
        from_json(DataConfig, {"strict": value})


def test_float_field_accepts_an_integer():
    assert from_json(FlipTransform, {"p": 1}).p == 1.0


def test_single_source_or_resize_side_becomes_a_tuple_of_one():
    source = {"images": "a", "annotations": "b"}
    assert from_json(DataConfig, {"train": source}) == from_json(DataConfig, {"train": [source]})
    assert from_json(DataConfig, {"resize": {"shorter": 640}}).resize.shorter == (640,)
    assert from_json(DataConfig, {"resize": {"shorter": [640, 672]}}).resize.shorter == (640, 672)


def test_type_selects_the_transform_config():
    transforms = [{"type": "flip", "p": 0.1}, {"type": "resize"}]
    assert from_json(DataConfig, {"transforms": transforms}).transforms == (FlipTransform(p=0.1), ResizeTransform())


@pytest.mark.parametrize("alpha", [0, 0.25, 1.0, None, [0.1, 0.9], "inverse_frequency"])
def test_focal_alpha_is_a_number_a_list_a_rule_or_null(alpha):
    cfg = from_json(LossConfig, {"classification": {"type": "focal", "alpha": alpha}})
    assert cfg.classification.alpha == (tuple(alpha) if isinstance(alpha, list) else alpha)
    assert from_json(LossConfig, cfg.model_dump(mode="json")) == cfg


def test_type_selects_the_class_loss_config_and_its_defaults():
    def chosen(**values):
        return from_json(LossConfig, {"classification": values}).classification

    assert chosen(type="focal") == LossConfig().classification == FocalConfig(alpha=0.25, gamma=2.0)
    assert chosen(type="cross_entropy") == CrossEntropyConfig(alpha=None)
    assert chosen(type="focal_star", gamma=4) == FocalStarConfig(gamma=4.0, beta=1.0)
    assert chosen(type="ohem", nms_iou=None) == OHEMConfig(keep=512, nms_iou=None, one_to_three=False)


@pytest.mark.parametrize("alpha", [0, 0.25, 1.0, None, [0.1, 0.9], "inverse_frequency"])
def test_softmax_focal_alpha_is_a_number_a_list_a_rule_or_null(alpha):
    cfg = from_json(SoftmaxFocalConfig, {"alpha": alpha})
    assert cfg.alpha == (tuple(alpha) if isinstance(alpha, list) else alpha)
    assert from_json(SoftmaxFocalConfig, cfg.model_dump(mode="json")) == cfg


def test_assignment_without_a_type_is_the_iou_assignment():
    """Configs in older checkpoints have no type."""
    for values in ({"fg_iou": 0.6}, {"type": "iou", "fg_iou": 0.6}):
        assert from_json(Config, MINIMAL | {"assignment": values}).assignment == IoUAssignmentConfig(fg_iou=0.6)
    assert from_json(Config, MINIMAL).assignment == from_json(Config, MINIMAL | {"assignment": {}}).assignment
    assert from_json(Config, MINIMAL | {"assignment": {"type": "atss"}}).assignment == ATSSAssignmentConfig()
