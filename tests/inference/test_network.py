"""The copy for inference, compared with the original network."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close
from torchvision.ops import FrozenBatchNorm2d

from retinanet.errors import InputError
from retinanet.inference.network import inference_model, warm_up
from retinanet.model.head import RetinaNetHead, per_anchor
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.structures import HeadOutputs
from tests.helpers.models import model_config

IMAGES = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGE_SIZES = torch.tensor([[64, 80], [50, 96]])


def network(norm="frozen", **settings):
    """A small network with random statistics, weights and biases in every norm."""
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
    """Everything that copying must not change: weights, mode, trainable parameters, and modules."""
    return (
        {name: value.clone() for name, value in (*model.state_dict().items(), ("mean", model.mean))},
        model.training,
        [parameter.requires_grad for parameter in model.parameters()],
        [(name, type(part)) for name, part in model.named_modules()],
    )


def assert_outputs_close(outputs, expected, tolerance):
    """Compare outputs with a tolerance relative to the largest logit and delta."""
    for one, other in (
        (outputs.class_logits, expected.class_logits),
        (outputs.box_deltas, expected.box_deltas),
    ):
        largest = max(level.abs().max().item() for level in other)
        assert_close(one, other, rtol=0, atol=tolerance * largest)
    assert all(torch.equal(one, other) for one, other in zip(outputs.anchors, expected.anchors, strict=True))


DEEP = {"name": "resnet50", "head_norm": "group"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("norm", "settings"),
    [
        *itertools.product(["frozen", "batch", "sync", "group"], [{}, {"p6_from": "p5"}]),
        *[("frozen", DEEP), ("batch", DEEP)],
    ],
)
def test_copy_equals_the_network_in_evaluation_mode(norm, settings, dtype):
    model = network(norm, **settings).to(dtype).train()
    before = state_of(model)
    copied = inference_model(model, dtype=dtype, compile=False)
    outputs = copied(IMAGES, IMAGE_SIZES)
    after = state_of(model)
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]

    assert isinstance(outputs, HeadOutputs)
    with torch.no_grad():
        expected = model.eval()(IMAGES, IMAGE_SIZES)
    assert_outputs_close(outputs, expected, 1e-10 if dtype == torch.float64 else 1e-4)
    assert not any(level.requires_grad for levels in outputs for level in levels)


def test_copy_is_in_evaluation_mode():
    """Batch norms are folded, so only layers such as dropout show the mode: in training mode, outputs are random."""
    model = network().train()
    model.head.class_subnet.insert(0, nn.Dropout(0.5))
    copied = inference_model(model, dtype=torch.float32, compile=False)
    assert not any(part.training for part in copied.modules())
    outputs, again = copied(IMAGES, IMAGE_SIZES), copied(IMAGES, IMAGE_SIZES)
    assert all(torch.equal(one, other) for one, other in zip(outputs.class_logits, again.class_logits, strict=True))
    assert model.head.class_subnet[0].training


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync"])
def test_copy_has_no_batch_norm_and_no_trainable_parameter(norm):
    copied = inference_model(network(norm, frozen_stages=0), dtype=torch.bfloat16, compile=False)
    assert not any(isinstance(part, _BatchNorm | FrozenBatchNorm2d) for part in copied.modules())
    assert not copied.training and not any(parameter.requires_grad for parameter in copied.parameters())
    convolutions = [part for part in copied.modules() if isinstance(part, nn.Conv2d)]
    assert all(type(part) is nn.Conv2d and part.bias is not None for part in convolutions)
    assert {part.weight.dtype for part in convolutions} == {torch.bfloat16}
    assert all(part.weight.is_contiguous(memory_format=torch.channels_last) for part in convolutions)  # in bfloat16
    assert copied.model.mean.dtype == torch.float32  # of images in 0..255, so it must not be rounded


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_copy_in_bfloat16_is_about_as_accurate_as_autocast(norm):
    model = network(norm, head_norm="group").eval()
    copied = inference_model(model, dtype=torch.bfloat16, compile=False)(IMAGES, IMAGE_SIZES)
    with torch.no_grad():
        exact = model(IMAGES, IMAGE_SIZES)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(IMAGES, IMAGE_SIZES)
    for levels, references, truths in (
        (copied.class_logits, autocast.class_logits, exact.class_logits),
        (copied.box_deltas, autocast.box_deltas, exact.box_deltas),
    ):
        one, other, truth = (torch.cat(part, 1) for part in (levels, references, truths))
        assert one.dtype == torch.bfloat16
        # Both round, but in different places: the error of the copy may be somewhat larger than that of autocast.
        assert (one - truth).norm() < 1.5 * (other - truth).norm() < 0.05 * truth.norm()


def test_autocast_and_inference_mode_of_the_caller_have_no_effect():
    copied = inference_model(network(), dtype=torch.float32, compile=False)
    plain = copied(IMAGES, IMAGE_SIZES)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        inside = copied(IMAGES, IMAGE_SIZES)
    assert_close(inside, plain, rtol=0, atol=0)
    assert not any(level.is_inference() for level in inside.class_logits)


def test_compiling_without_a_compiler_is_rejected(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"C\+\+ compiler.*inference\.compile=false"):
        inference_model(network(), dtype=torch.float32, compile=True)


@pytest.mark.slow
def test_compiled_copy_equals_the_network():
    """Test every shape. After `warm_up`, no autograd mode or autocast of the caller causes a recompilation."""
    torch._dynamo.reset()
    model = network().eval()
    copied = inference_model(model, dtype=torch.float32, compile=True)
    warm_up(copied, [(2, 3, 64, 96), (1, 3, 96, 64)])
    # Do not use monkeypatch: the value that it restores would shadow the setting from then on.
    with torch._dynamo.config.patch(error_on_recompile=True):
        for images, image_sizes in ((IMAGES, IMAGE_SIZES), (IMAGES[:1].mT.contiguous(), IMAGE_SIZES[:1].flip(1))):
            with torch.no_grad():
                expected = model(images, image_sizes)
            assert_outputs_close(copied(images, image_sizes), expected, 1e-4)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                assert_outputs_close(copied(images, image_sizes), expected, 1e-4)
    # Weights are packed during compilation, so later changes have no effect. Packing them in every call would be slow.
    before = copied(IMAGES, IMAGE_SIZES)
    copied.model.head.class_subnet[-1].weight.zero_()
    assert_outputs_close(copied(IMAGES, IMAGE_SIZES), before, 0.0)


@pytest.mark.parametrize("head_norm", ["batch_per_level", "sync_per_level"])
def test_norms_per_level_become_a_scale_and_a_shift(head_norm):
    model = network(head_norm=head_norm).train()
    copied = inference_model(model, dtype=torch.float32, compile=False)
    assert not any(isinstance(part, _BatchNorm) for part in copied.modules())
    with torch.no_grad():
        assert_outputs_close(copied(IMAGES, IMAGE_SIZES), model.eval()(IMAGES, IMAGE_SIZES), 1e-4)


def test_norms_per_level_in_bfloat16_are_about_as_accurate_as_autocast():
    model = network(head_norm="batch_per_level").eval()
    copied = inference_model(model, dtype=torch.bfloat16, compile=False)(IMAGES, IMAGE_SIZES)
    with torch.no_grad():
        truth = torch.cat(model(IMAGES, IMAGE_SIZES).class_logits, 1)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = torch.cat(model(IMAGES, IMAGE_SIZES).class_logits, 1)
    result = torch.cat(copied.class_logits, 1)
    assert result.dtype == torch.bfloat16
    assert (result - truth).norm() < 1.5 * (autocast - truth).norm()


class QualityHead(RetinaNetHead):
    """A head that also predicts the quality of boxes."""

    def __init__(self, channels, *, num_anchors, num_classes, num_convs):
        super().__init__(channels, num_anchors=num_anchors, num_classes=num_classes, num_convs=num_convs)
        self.quality = nn.Conv2d(channels, num_anchors, 3, padding=1)

    def forward(self, pyramid):
        return *super().forward(pyramid), [per_anchor(self.quality(level), 1).squeeze(-1) for level in pyramid]


def test_copy_of_a_network_with_a_quality_branch_equals_it():
    model = network("batch").eval()
    model.head = QualityHead(64, num_anchors=model.anchors.num_per_cell, num_classes=5, num_convs=1).eval()
    copied = inference_model(model, dtype=torch.float64, compile=False)
    outputs = copied(IMAGES, IMAGE_SIZES)
    with torch.no_grad():
        expected = model.double()(IMAGES, IMAGE_SIZES)
    assert len(outputs.quality) == 5 and not any(isinstance(part, _BatchNorm) for part in copied.modules())
    assert_close([level.double() for level in outputs.quality], list(expected.quality), rtol=1e-4, atol=1e-5)


class WithWeights(RetinaNet):
    """A network whose features depend on a weight by another way than its convolution."""

    def outputs(self, pixels):
        c3, c4, c5 = self.backbone(pixels)
        return self.head(self.fpn([c3, c4, c5 + self.backbone.conv1.weight.abs().mean()]))


def test_folding_is_checked_on_the_outputs_of_a_network_with_its_own_computation():
    """The network adds the mean weight of a convolution, which folding changes; nothing may be folded."""
    model = network("batch").eval()
    model.__class__ = WithWeights
    copied = inference_model(model, dtype=torch.float32, compile=False)
    with torch.no_grad():
        assert_outputs_close(copied(IMAGES, IMAGE_SIZES), model(IMAGES, IMAGE_SIZES), 1e-4)
