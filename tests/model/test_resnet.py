import math

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from retinanet.model.norm import GroupNorm, SyncBatchNorm
from retinanet.model.resnet import ResNet, residual
from tests.helpers.backbones import (
    IMAGES,
    by_torchvision,
    features_and_gradients,
    resnet18,
    saved_bytes,
    spread_out,
)

STAGES = ("conv1 bn1", "layer1", "layer2", "layer3", "layer4")
ARCHITECTURES = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]


def shapes(state, without=()):
    return {key: value.shape for key, value in state.items() if not key.startswith("fc.") and not key.endswith(without)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_state_dict_has_the_names_and_shapes_of_torchvision_without_the_classifier(name):
    with torch.device("meta"):
        expected = getattr(torchvision.models, name)(weights=None).state_dict()
        states = {norm: ResNet(name, norm=norm, frozen_stages=0).state_dict() for norm in ("frozen", "batch", "sync")}
    assert shapes(states["batch"]) == shapes(states["sync"]) == shapes(expected)
    assert shapes(states["frozen"]) == shapes(expected, without="num_batches_tracked")


def test_small_network_has_the_first_blocks_of_resnet18_with_half_the_channels():
    """Each of its tensors has a counterpart with twice as many channels, except for the image channels."""
    small, large = (ResNet(name, norm="batch", frozen_stages=0).state_dict() for name in ("resnet10_half", "resnet18"))
    assert len(small) == 6 + 4 * 2 * 6 + 3 * 6  # a convolution and its norm have six tensors
    for key, tensor in small.items():
        halves = [size // 2 if axis < 2 and size > 7 else size for axis, size in enumerate(large[key].shape)]
        assert list(tensor.shape) == halves, key


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet10_half", (64, 128, 256)),
        ("resnet18", (128, 256, 512)),
        ("resnet50", (512, 1024, 2048)),
        ("resnext50_32x4d", (512, 1024, 2048)),
    ],
)
def test_features_have_the_declared_channels_and_strides(name, channels):
    with torch.device("meta"):
        backbone = ResNet(name, norm="frozen", frozen_stages=0)
        features = backbone(torch.empty(2, 3, 96, 160))
    assert backbone.out_channels == channels
    assert backbone.strides == (8, 16, 32)
    assert [tuple(feature.shape) for feature in features] == [
        (2, count, 96 // stride, 160 // stride) for count, stride in zip(channels, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_stride_in_the_1x1_convolution_skips_every_other_pixel(stride_in_1x1):
    """The original block reads only pixels with even coordinates; a 3x3 convolution with stride 2 reads all of them."""
    torch.manual_seed(0)
    backbone = ResNet("resnet50", norm="frozen", frozen_stages=0, stride_in_1x1=stride_in_1x1)
    x = torch.randn(1, 256, 6, 8)
    odd = x.clone()
    odd[..., 1::2, :] += 1
    odd[..., :, 1::2] += 1
    with torch.no_grad():
        out, changed = residual(x, backbone.layer2[0]), residual(odd, backbone.layer2[0])
    assert out.shape == (1, 512, 3, 4)
    assert torch.equal(out, changed) == stride_in_1x1
    strides = [(block.conv1.stride, block.conv2.stride) for block in backbone.layer2[:2]]
    first = [(2, 2), (1, 1)] if stride_in_1x1 else [(1, 1), (2, 2)]
    assert strides == [tuple(first), ((1, 1), (1, 1))]


def test_features_equal_those_of_torchvision_with_the_same_weights(imagenet_state, imagenet_file):
    full = torchvision.models.resnet18(weights=None)
    full.load_state_dict(imagenet_state)
    backbone = resnet18()
    backbone.load_pretrained(str(imagenet_file))
    with torch.no_grad():
        c5 = backbone.eval()(IMAGES)[-1]
        expected = full.eval()(IMAGES)
        torch.testing.assert_close(full.fc(c5.mean((2, 3))), expected)


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("frozen", torchvision.ops.FrozenBatchNorm2d),
        ("batch", nn.BatchNorm2d),
        ("sync", SyncBatchNorm),
        ("group", GroupNorm),
    ],
)
def test_every_norm_has_the_requested_type(norm, kind):
    backbone = resnet18(norm)
    norms = [module for name, module in backbone.named_modules() if "bn" in name or name.endswith("downsample.1")]
    assert len(norms) == 20 and {type(module) for module in norms} == {kind}
    trainable = [parameter for module in norms for parameter in module.parameters() if parameter.requires_grad]
    assert len(trainable) == (0 if norm == "frozen" else 40)
    for feature in backbone.train()(IMAGES):
        assert feature.isfinite().all() and feature.std() > 0


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "resnext50_32x4d"))]
)
def test_features_and_gradients_equal_those_of_torchvisions_blocks(name, norm):
    torch.manual_seed(0)
    backbone = spread_out(ResNet(name, norm=norm, frozen_stages=0)).train()
    with torch.no_grad():
        for one, other in zip(backbone(IMAGES), by_torchvision(backbone, IMAGES), strict=True):
            assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())
    # In float32, a single ReLU input that rounding moves across zero would change every gradient before it.
    backbone, images = backbone.double(), IMAGES.double()
    ours = features_and_gradients(backbone, backbone, images)
    expected = features_and_gradients(lambda x: by_torchvision(backbone, x), backbone, images)
    for one, other in zip(ours, expected, strict=True):
        assert_close(one, other, rtol=0, atol=1e-10 * other.abs().max().item())


def test_features_under_autocast_are_within_rounding_of_float32():
    backbone = spread_out(resnet18())
    images = IMAGES[:, :, :32, :32]
    exact = backbone(images)
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(images)
    for one, other in zip(features, exact, strict=True):
        assert one.dtype == torch.bfloat16
        # 2**-9 for each of 20 convolutions and 8 sums, and for each of their inputs; random errors add in quadrature
        assert (one - other).norm() < 2**-9 * math.sqrt(56) * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_backward_pass_needs_only_the_output_of_each_relu(name, dtype):
    """The output of a ReLU is also the input of the next convolution, so it is saved once, in the convolution's dtype.

    Norms add only their scales: neither a second copy of the weights nor anything from the frozen stages is saved.
    """
    backbone = ResNet(name, norm="frozen", frozen_stages=2)
    images = IMAGES[:1, :, :32, :64]
    stages = (backbone.layer2, backbone.layer3, backbone.layer4)
    numbers = 0

    def count(module, inputs, output):
        nonlocal numbers
        numbers += output.numel()

    backbone.layer1.register_forward_hook(count)  # the input of the first trainable stage
    relus = [module for stage in stages for module in stage.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(count)
    by_torchvision(backbone, images)
    factors = sum(norm.weight.nbytes for stage in stages for norm in stage.modules() if hasattr(norm, "running_var"))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        saved = saved_bytes(backbone, images)
    assert 0 < saved <= numbers * dtype.itemsize + factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_backbone_saves_nothing_for_the_backward_pass(dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert saved_bytes(resnet18(frozen_stages=5), IMAGES[:1, :, :32, :32]) == 0


def step(backbone):
    """Take one training step with weight decay, after `train()` as a training loop calls it."""
    backbone.train()
    trainable = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1, weight_decay=0.1)
    sum(feature.square().mean() for feature in backbone(IMAGES)).backward()
    optimizer.step()


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
@pytest.mark.parametrize("frozen_stages", [0, 1, 2, 4])
def test_step_changes_exactly_the_trainable_tensors(norm, frozen_stages):
    backbone = resnet18(norm, frozen_stages)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    step(backbone)
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    for number, stage in enumerate(STAGES):
        keys = [key for key in before if key.startswith(tuple(stage.split()))]
        if norm == "frozen":  # statistics, weights and biases of frozen norms are constants
            trained = [key for key in keys if before[key].ndim == 4]
        else:
            trained = keys
        assert changed & set(keys) == (set() if number < frozen_stages else set(trained)), stage


def test_five_frozen_stages_freeze_everything():
    backbone = resnet18("batch", frozen_stages=5).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert not any(feature.requires_grad for feature in backbone(IMAGES))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_that_of_the_weights(memory_format):
    assert resnet18().to(memory_format=memory_format).memory_format == memory_format


def test_features_with_c2_start_with_the_output_of_the_first_residual_stage():
    backbone = spread_out(ResNet("resnet18", norm="frozen", frozen_stages=0, out_strides=(4, 8, 16, 32)))
    assert (backbone.strides, backbone.out_channels) == ((4, 8, 16, 32), (64, 128, 256, 512))
    c2, *others = backbone(IMAGES)
    stem = backbone.maxpool(backbone.bn1(backbone.conv1(IMAGES)).relu())
    assert_close(c2, backbone.layer1(stem), rtol=1e-4, atol=1e-5)
    assert c2.shape == (2, 64, 16, 24)
    assert_close(others, by_torchvision(backbone, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet10_half", "resnet50"])
def test_stages_contain_every_parameter_once_in_order(name):
    backbone = ResNet(name, norm="batch", frozen_stages=2)
    stages = backbone.stages()
    first = ["conv1.weight", *(f"layer{number}.0.conv1.weight" for number in range(1, 5))]
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    assert [names[id(stage[0])] for stage in stages] == first
    assert [names[id(parameter)] for stage in stages for parameter in stage] == list(names.values())
