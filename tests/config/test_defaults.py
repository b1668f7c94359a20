"""Defaults of constructors match those of the schema, for every object that the build functions create."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from torch import nn

from retinanet.config import (
    AnchorConfig,
    AssignmentConfig,
    ClassLossConfig,
    DataConfig,
    IoUAssignmentConfig,
    LossConfig,
    ModelConfig,
    PostprocessConfig,
    ResNetConfig,
    StrictModel,
)
from retinanet.config.base import models_in
from retinanet.config.loss import BoxLossConfig
from retinanet.detection.assignment import assign_reference
from retinanet.detection.build import build_assignment
from retinanet.detection.postprocess import Postprocess, build_postprocess
from retinanet.formats.read import read_dataset
from retinanet.losses.build import build_loss
from retinanet.model.head import RetinaNetHead
from retinanet.model.retinanet import build_model

# Parameters whose key has a different name.
KEY_OF = {"num_convs": "head_convs", "norm": "head_norm"}


def parts_of(whole: Any) -> Iterator[Any]:
    """The object itself, and objects of this package that it or its parts refer to."""
    yield whole
    children = list(whole.children()) if isinstance(whole, nn.Module) else []
    for part in [*vars(whole).values(), *children]:
        if type(part).__module__.startswith("retinanet.") and not isinstance(part, StrictModel):
            yield from parts_of(part)


def different_defaults(make: Callable, record: StrictModel) -> list[str]:
    """Parameters of a constructor or function that have a different default from the key of the same name."""
    keys = type(record).model_fields
    different = []
    for name, parameter in inspect.signature(make).parameters.items():
        key = name if name in keys else KEY_OF.get(name)
        if key in keys and parameter.default is not inspect.Parameter.empty:
            if parameter.default != getattr(record, key):
                different.append(f"{make.__qualname__}({name}={parameter.default!r}), {key}: {getattr(record, key)!r}")
    return different


def test_differences_are_detected():
    def make(prior=0.5, num_convs=4, *, head_norm="group", unrelated=1):
        pass

    assert different_defaults(make, ModelConfig()) == [
        f"{make.__qualname__}(prior=0.5), prior: 0.01",
        f"{make.__qualname__}(head_norm='group'), head_norm: 'none'",
    ]


def test_model_defaults_equal_the_schema():
    model = build_model(ModelConfig(backbone=ResNetConfig(name="resnet18")), num_classes=3)
    for part in parts_of(model):
        record = {"AnchorGenerator": AnchorConfig(), "ResNet": ResNetConfig()}.get(type(part).__name__, ModelConfig())
        assert different_defaults(type(part), record) == []


@pytest.mark.parametrize("record", [model() for model in models_in(ClassLossConfig)], ids=lambda record: record.type)
def test_class_loss_defaults_equal_the_schema(record):
    criterion = build_loss(LossConfig(classification=record))
    assert different_defaults(type(criterion), LossConfig()) == []
    # Skip parts of the default loss that other losses share: the box loss, and the focal loss as cross entropy.
    of_the_default = {type(part) for part in parts_of(build_loss(LossConfig()))}
    for part in parts_of(criterion):
        if type(part) not in of_the_default or (record == LossConfig().classification and not is_box_loss(part)):
            assert different_defaults(type(part), record) == []


def is_box_loss(part: Any) -> bool:
    return type(part).__module__ == "retinanet.losses.box_losses"


@pytest.mark.parametrize("record", [model() for model in models_in(BoxLossConfig)], ids=lambda record: record.type)
def test_box_loss_defaults_equal_the_schema(record):
    parts = [part for part in parts_of(build_loss(LossConfig(box=record))) if is_box_loss(part)]
    assert parts != []
    for part in parts:
        assert different_defaults(type(part), record) == []


@pytest.mark.parametrize("record", [model() for model in models_in(AssignmentConfig)], ids=lambda record: record.type)
def test_assignment_defaults_equal_the_schema(record):
    made = build_assignment(record)
    function = made.func if isinstance(made, partial) else type(made)
    assert different_defaults(function, record) == []


def test_postprocess_defaults_equal_the_schema():
    made = build_postprocess(PostprocessConfig(), background_logit=False)
    assert different_defaults(type(made), PostprocessConfig()) == []


@pytest.mark.parametrize("made", [Postprocess, RetinaNetHead])
def test_background_logit_defaults_equal_the_schema(made):
    default = inspect.signature(made).parameters["background_logit"].default
    assert default is ModelConfig().has_background_logit


def test_function_defaults_equal_the_schema():
    assert different_defaults(read_dataset, DataConfig()) == []
    assert different_defaults(assign_reference, IoUAssignmentConfig()) == []
