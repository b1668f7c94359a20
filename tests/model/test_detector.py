import pytest
import torch
from torch import nn

from retinanet.config import ModelConfig, ResNetConfig
from retinanet.errors import InputError
from retinanet.model.detector import Detector, has_background_logit, model_name
from retinanet.model.retinanet import build_model, is_retinanet
from retinanet.structures import HeadOutputs
from tests.helpers.custom_parts import OneLevel

SMALL = ModelConfig(
    backbone=ResNetConfig(name="resnet10_half", weights="none", frozen_stages=0), channels=8, head_convs=0
)


def test_background_logit_is_found_in_the_outputs():
    assert not has_background_logit(OneLevel(2), 2)
    assert has_background_logit(OneLevel(3), 2)
    softmax = SMALL.model_copy(update={"class_activation": "softmax"})
    assert has_background_logit(build_model(softmax, 2), 2)


def test_check_changes_neither_mode_nor_statistics_nor_random_numbers():
    model = build_model(SMALL.model_copy(update={"backbone": SMALL.backbone.model_copy(update={"norm": "batch"})}), 2)
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    has_background_logit(model, 2)
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


class Changed(OneLevel):
    """A model with other outputs."""

    def __init__(self, **changes):
        super().__init__()
        self.changes = changes

    def forward(self, images, image_sizes):
        return super().forward(images, image_sizes)._replace(**self.changes)


# 128x192 pixels have 16x24 cells of stride 8, with an anchor each.
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (OneLevel(5), r"class_logits .* are \[\(2, 384, 5\)\], expected \[\(2, 384, 2\)\] or \[\(2, 384, 3\)\]"),
        (Changed(box_deltas=[]), r"box_deltas .* are \[\], expected \[\[?\(2, 384, 4\)\]"),
        (Changed(quality=[torch.zeros(2, 384, 1)]), r"quality .* are \[\(2, 384, 1\)\], expected \[\(2, 384\)\]"),
        (Changed(anchors=[torch.zeros(1, 1, 1, 4)]), "the anchors in its outputs differ"),
        (nn.Conv2d(3, 3, 1), "Conv2d: has no method anchors"),
        (nn.Sequential(nn.Flatten()), "has no method anchors"),
    ],
)
def test_wrong_model_is_refused(model, message):
    with pytest.raises(InputError, match=message):
        has_background_logit(model, 2)


def test_model_runs_on_the_configured_number_of_channels():
    four = build_model(SMALL.model_copy(update={"in_channels": 4, "mean": (9.0,) * 4, "std": (5.0,) * 4}), 2)
    assert not has_background_logit(four, 2, in_channels=4)
    with pytest.raises(
        InputError, match=r"made for images of 4 channels, but model\.in_channels is 3; set model\.in_ch"
    ):
        has_background_logit(four, 2)


class OfTuples(OneLevel):
    def forward(self, images, image_sizes):
        return tuple(super().forward(images, image_sizes))


def test_plain_tuple_is_refused():
    with pytest.raises(InputError, match=r"OfTuples: returned tuple, expected HeadOutputs"):
        has_background_logit(OfTuples(), 2)


class Head(nn.Module):
    """A head of the user."""


def test_name_of_a_retinanet_includes_replaced_parts():
    model = build_model(SMALL, 2)
    assert model_name(model) == "retinanet.model.retinanet.RetinaNet"
    model.head = Head()
    assert model_name(model) == f"retinanet.model.retinanet.RetinaNet with {Head.__module__}.Head"
    assert model_name(OneLevel()) == "tests.helpers.custom_parts.OneLevel"


def test_retinanet_with_its_own_forward_runs_as_a_whole():
    model = build_model(SMALL, 2)
    assert is_retinanet(model) and isinstance(model, Detector)

    class Own(type(model)):
        def forward(self, images, image_sizes) -> HeadOutputs:
            return super().forward(images, image_sizes)

    model.__class__ = Own
    assert not is_retinanet(model)
