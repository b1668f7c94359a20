"""The copy for prediction against the network it was made from."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close
from torchvision.ops import FrozenBatchNorm2d

from retinanet.errors import InputError
from retinanet.inference.network import inference_model, warm_up
from retinanet.model.retinanet import build_model
from retinanet.structures import HeadOutputs
from tests.helpers.models import model_config

IMAGES = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGE_SIZES = torch.tensor([[64, 80], [50, 96]])


def network(norm="frozen", **settings):
    """A small network whose norms all have statistics, factors and shifts of their own."""
    torch.manual_seed(0)
    cfg = model_config(norm=norm, **{"channels": 64, "head_convs": 1} | settings)
    model = build_model(cfg, 5)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, _BatchNorm | FrozenBatchNorm2d | nn.GroupNorm):
                part.weight.uniform_(0.5, 1.0)
                part.bias.uniform_(-0.2, 0.2)
                if hasattr(part, "running_var"):
                    part.running_mean.uniform_(-0.2, 0.2)
                    part.running_var.uniform_(0.5, 2.0)
        for last in (model.head.class_subnet[-1], model.head.box_subnet[-1]):
            last.weight.normal_(std=0.1)
    return model


def state_of(model):
    """Everything that a copy must not change: weights, mode, what learns, and the parts."""
    return (
        {name: value.clone() for name, value in (*model.state_dict().items(), ("mean", model.mean))},
        model.training,
        [parameter.requires_grad for parameter in model.parameters()],
        [(name, type(part)) for name, part in model.named_modules()],
    )


def assert_predictions_equal(found, expected, tolerance):
    """By a share of the largest logit and delta."""
    for one, other in zip(found[:2], expected[:2], strict=True):
        largest = max(level.abs().max().item() for level in other)
        assert_close(one, other, rtol=0, atol=tolerance * largest)
    assert all(torch.equal(one, other) for one, other in zip(found.anchors, expected.anchors, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("settings", [{}, {"name": "resnet50", "head_norm": "group"}, {"p6_from": "p5"}])
@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
def test_copy_is_the_network_in_evaluation(norm, settings, dtype, tolerance):
    model = network(norm, **settings).to(dtype).train()
    before = state_of(model)
    copied = inference_model(model, dtype=dtype, compile=False)
    found = copied(IMAGES, IMAGE_SIZES)
    after = state_of(model)
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]

    assert isinstance(found, HeadOutputs)
    with torch.no_grad():
        assert_predictions_equal(found, model.eval()(IMAGES, IMAGE_SIZES), tolerance)
    assert not any(level.requires_grad for levels in found for level in levels)


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync"])
def test_copy_has_no_batch_norm_and_nothing_to_learn(norm):
    copied = inference_model(network(norm, frozen_stages=0), dtype=torch.bfloat16, compile=False)
    assert not any(isinstance(part, _BatchNorm | FrozenBatchNorm2d) for part in copied.modules())
    assert not copied.training and not any(parameter.requires_grad for parameter in copied.parameters())
    convolutions = [part for part in copied.modules() if isinstance(part, nn.Conv2d)]
    assert all(type(part) is nn.Conv2d and part.bias is not None for part in convolutions)
    assert {part.weight.dtype for part in convolutions} == {torch.bfloat16}
    assert all(part.weight.is_contiguous(memory_format=torch.channels_last) for part in convolutions)  # in bfloat16
    assert copied.model.mean.dtype == torch.float32  # of images, 0..255: not to be rounded


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_copy_in_bfloat16_is_as_good_as_autocast(norm):
    model = network(norm, head_norm="group").eval()
    copied = inference_model(model, dtype=torch.bfloat16, compile=False)(IMAGES, IMAGE_SIZES)
    with torch.no_grad():
        exact = model(IMAGES, IMAGE_SIZES)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(IMAGES, IMAGE_SIZES)
    for levels, references, truths in zip(copied[:2], autocast[:2], exact[:2], strict=True):
        one, other, truth = (torch.cat(part, 1) for part in (levels, references, truths))
        assert one.dtype == torch.bfloat16
        # Two ways of rounding: they are no farther from each other than each is from float32, twice.
        assert (one - truth).norm() < 1.5 * (other - truth).norm() < 0.05 * truth.norm()


def test_precision_of_the_caller_does_not_matter():
    copied = inference_model(network(), dtype=torch.float32, compile=False)
    plain = copied(IMAGES, IMAGE_SIZES)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        inside = copied(IMAGES, IMAGE_SIZES)
    assert_close(inside, plain, rtol=0, atol=0)
    assert not any(level.is_inference() for level in inside.class_logits)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"C\+\+ compiler.*inference\.compile=false"):
        inference_model(network(), dtype=torch.float32, compile=True)


@pytest.mark.slow
def test_compiled_copy_is_the_network():
    """In every shape; what was warmed up is not compiled again, from whatever mode the caller is in."""
    torch._dynamo.reset()
    model = network().eval()
    copied = inference_model(model, dtype=torch.float32, compile=True)
    warm_up(copied, [(2, 64, 96), (1, 96, 64)])
    # Not by monkeypatch: what that puts back is hidden from then on.
    with torch._dynamo.config.patch(error_on_recompile=True):
        for images, image_sizes in ((IMAGES, IMAGE_SIZES), (IMAGES[:1].mT.contiguous(), IMAGE_SIZES[:1].flip(1))):
            with torch.no_grad():
                expected = model(images, image_sizes)
            assert_predictions_equal(copied(images, image_sizes), expected, 1e-4)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                assert_predictions_equal(copied(images, image_sizes), expected, 1e-4)
    # Its weights were packed when it was compiled: a change comes too late. Packed in every call, they would be slower.
    before = copied(IMAGES, IMAGE_SIZES)
    copied.model.head.class_subnet[-1].weight.zero_()
    assert_predictions_equal(copied(IMAGES, IMAGE_SIZES), before, 0.0)
