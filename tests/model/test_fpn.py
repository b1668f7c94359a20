import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from retinanet.model.fpn import FeaturePyramid

IN_CHANNELS = (8, 16, 24)


def features_of(height, width, batch=2):
    """Random C3, C4 and C5 of a padded input of (height, width)."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, count, math.ceil(height / stride), math.ceil(width / stride), generator=generator)
        for count, stride in zip(IN_CHANNELS, (8, 16, 32), strict=True)
    ]


def torchvisions_names(state):
    """Translate our weight names to torchvision's, in the same order."""
    renamed = []
    for name in state:
        for ours, theirs in (("laterals", "inner_blocks"), ("outputs", "layer_blocks")):
            if name.startswith(ours):
                _, level, kind = name.split(".")
                name = f"{theirs}.{level}.0.{kind}"
        renamed.append(name if "blocks" in name else f"extra_blocks.{name}")
    return renamed


def pair_of(p6_from):
    """Return our pyramid and torchvision's, with the same random weights and biases."""
    ours = FeaturePyramid(IN_CHANNELS, 12, p6_from=p6_from)
    theirs = FeaturePyramidNetwork(
        list(IN_CHANNELS), 12, extra_blocks=LastLevelP6P7(IN_CHANNELS[-1] if p6_from == "c5" else 12, 12)
    )
    state = ours.state_dict()
    for value in state.values():
        nn.init.normal_(value, std=0.2)
    theirs.load_state_dict(dict(zip(torchvisions_names(state), state.values(), strict=True)))
    return ours, theirs


@pytest.mark.parametrize("size", [(128, 256), (96, 160), (200, 333)])
@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_pyramid_equals_torchvisions(p6_from, size):
    ours, theirs = pair_of(p6_from)
    features = features_of(*size)
    pyramid = ours(features)
    expected = theirs(dict(zip("345", features, strict=True)))
    assert len(pyramid) == 5
    assert_close(pyramid, list(expected.values()))
    sizes = [tuple(math.ceil(side / stride) for side in size) for stride in (8, 16, 32, 64, 128)]
    assert [tuple(level.shape[-2:]) for level in pyramid] == sizes


@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_gradients_equal_torchvisions(p6_from):
    """torchvision adds levels into new tensors, while ours adds in place."""
    ours, theirs = (pyramid.double() for pyramid in pair_of(p6_from))
    weights = dict(theirs.named_parameters())
    gradients = []
    for forward, parameters in (
        (ours, list(ours.parameters())),
        (
            lambda features: theirs(dict(zip("345", features, strict=True))).values(),
            [weights[name] for name in torchvisions_names(ours.state_dict())],
        ),
    ):
        features = [feature.double().requires_grad_() for feature in features_of(200, 333)]
        loss = sum(level.square().mean() for level in forward(features))
        gradients.append(torch.autograd.grad(loss, [*features, *parameters]))
    assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_pyramid_with_p2_equals_torchvisions():
    """Weights are numbered from the finest level, as in torchvision."""
    channels = (4, *IN_CHANNELS)
    ours = FeaturePyramid(channels, 12)
    theirs = FeaturePyramidNetwork(list(channels), 12, extra_blocks=LastLevelP6P7(IN_CHANNELS[-1], 12))
    state = ours.state_dict()
    for value in state.values():
        nn.init.normal_(value, std=0.2)
    theirs.load_state_dict(dict(zip(torchvisions_names(state), state.values(), strict=True)))
    features = [torch.randn(2, 4, 50, 84), *features_of(200, 333)]
    pyramid = ours(features)
    assert [tuple(level.shape[-2:]) for level in pyramid[:2]] == [(50, 84), (25, 42)]
    assert_close(pyramid, list(theirs(dict(zip("2345", features, strict=True))).values()))


@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_shorter_pyramid_is_the_beginning_of_the_whole(p6_from):
    whole, _ = pair_of(p6_from)
    features = features_of(96, 160)
    for last in (5, 6):
        shorter = FeaturePyramid(IN_CHANNELS, 12, p6_from=p6_from, last=last)
        names = shorter.state_dict().keys()
        assert ("p6.weight" in names, "p7.weight" in names) == (last == 6, False)
        shorter.load_state_dict({name: value for name, value in whole.state_dict().items() if name in names})
        assert_close(shorter(features), whole(features)[: last - 2], rtol=0, atol=0)


def test_input_features_do_not_change():
    features = features_of(64, 64)
    copies = [feature.clone() for feature in features]
    FeaturePyramid(IN_CHANNELS, 12)(features)
    assert all(torch.equal(feature, copy) for feature, copy in zip(features, copies, strict=True))


def test_initial_weights_are_kaiming_uniform_and_biases_zero():
    torch.manual_seed(0)
    pyramid = FeaturePyramid((256, 512, 1024), 64)
    for name, parameter in pyramid.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            # Kaiming uniform with a = 1: within ±sqrt(3 / fan_in)
            limit = math.sqrt(3 / parameter[0].numel())
            assert 0.98 * limit < parameter.abs().max() <= limit, name
            assert_close(parameter.std().item(), limit / math.sqrt(3), rtol=0.03, atol=0)
