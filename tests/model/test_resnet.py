import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.testing import assert_close

from retinanet.model.norm import SyncBatchNorm, norm_layer
from retinanet.model.resnet import ResNet, conv_norm, load_backbone_weights, scales_weight

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
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def resnet18(norm="frozen", frozen_stages=0):
    torch.manual_seed(1)
    return ResNet("resnet18", norm=norm, frozen_stages=frozen_stages)


def shapes(state, without=()):
    return {key: value.shape for key, value in state.items() if not key.startswith("fc.") and not key.endswith(without)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_state_dict_is_torchvisions_without_the_classifier(name):
    with torch.device("meta"):
        expected = getattr(torchvision.models, name)(weights=None).state_dict()
        states = {norm: ResNet(name, norm=norm, frozen_stages=0).state_dict() for norm in ("frozen", "batch", "sync")}
    assert shapes(states["batch"]) == shapes(states["sync"]) == shapes(expected)
    assert shapes(states["frozen"]) == shapes(expected, without="num_batches_tracked")


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (128, 256, 512)),
        ("resnet50", (512, 1024, 2048)),
        ("resnext50_32x4d", (512, 1024, 2048)),
    ],
)
def test_features_have_the_channels_and_strides_that_are_promised(name, channels):
    with torch.device("meta"):
        backbone = ResNet(name, norm="frozen", frozen_stages=0)
        features = backbone(torch.empty(2, 3, 96, 160))
    assert backbone.out_channels == channels
    assert [tuple(feature.shape) for feature in features] == [
        (2, count, 96 // stride, 160 // stride) for count, stride in zip(channels, (8, 16, 32), strict=True)
    ]


def test_features_are_those_of_torchvision(imagenet_state, imagenet_file):
    full = torchvision.models.resnet18(weights=None)
    full.load_state_dict(imagenet_state)
    backbone = resnet18()
    load_backbone_weights(backbone, "resnet18", str(imagenet_file))
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
        ("group", nn.GroupNorm),
    ],
)
def test_every_normalisation_is_of_the_kind_that_was_asked_for(norm, kind):
    backbone = resnet18(norm)
    norms = [module for name, module in backbone.named_modules() if "bn" in name or name.endswith("downsample.1")]
    assert len(norms) == 20 and {type(module) for module in norms} == {kind}
    learnt = [parameter for module in norms for parameter in module.parameters() if parameter.requires_grad]
    assert len(learnt) == (0 if norm == "frozen" else 40)
    for feature in backbone.train()(IMAGES):
        assert feature.isfinite().all() and feature.std() > 0


def spread_out(module, seed=0):
    """Give every norm in it statistics, factors and shifts of its own."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(norm, name, None)
            if value is not None and value.ndim == 1:
                offset = 0.5 if name in ("weight", "running_var") else -0.5
                value.data.copy_(torch.rand(value.shape, generator=generator) + offset)
    return module


def by_torchvision(backbone, images):
    """The features through torchvision's own blocks, one pass over memory for each norm, sum and ReLU."""
    x = backbone.maxpool(F.relu(backbone.bn1(backbone.conv1(images))))
    c3 = backbone.layer2(backbone.layer1(x))
    c4 = backbone.layer3(c3)
    return [c3, c4, backbone.layer4(c4)]


def features_and_gradients(forward, backbone, images):
    """Three features, then the gradients of the images and of every weight that learns."""
    learning = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    images = images.clone().requires_grad_()
    features = forward(images)
    loss = sum(feature.to(images.dtype).square().mean() for feature in features)
    return [*features, *torch.autograd.grad(loss, [images, *learning])]


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_features_and_gradients_are_those_of_torchvisions_blocks(name, norm):
    torch.manual_seed(0)
    backbone = spread_out(ResNet(name, norm=norm, frozen_stages=0)).train()
    with torch.no_grad():
        for one, other in zip(backbone(IMAGES), by_torchvision(backbone, IMAGES), strict=True):
            assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())
    # In float32, a ReLU that rounding turns over would be seen in every gradient before it.
    backbone, images = backbone.double(), IMAGES.double()
    ours = features_and_gradients(backbone, backbone, images)
    expected = features_and_gradients(lambda x: by_torchvision(backbone, x), backbone, images)
    for one, other in zip(ours, expected, strict=True):
        assert_close(one, other, rtol=0, atol=1e-10 * other.abs().max().item())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-6)]
)
@pytest.mark.parametrize("geometry", [{}, {"stride": 2}, {"padding": 1, "groups": 4}, {"padding": 2, "dilation": 2}])
@pytest.mark.parametrize(("shape", "by_weight"), [((2, 8, 21, 18), True), ((1, 8, 5, 3), False)])
def test_folded_norm_is_the_norm_after_the_convolution(shape, by_weight, geometry, dtype, tolerance):
    """In bfloat16 under autocast, where a number is off by up to 2**-9."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, bias=False, **geometry), spread_out(norm_layer("frozen")(16))
    x = torch.randn(shape)
    assert scales_weight(x, conv.weight, conv.stride) == by_weight  # a filter has 72 weights, or 18
    results = []
    for mode, function in ((dtype, conv_norm), (torch.float64, lambda x, conv, norm: norm(conv(x)))):
        weights = torch.float64 if mode == torch.float64 else torch.float32
        conv, norm, inputs = conv.to(weights), norm.to(weights), x.to(weights).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == torch.bfloat16):
            output = function(inputs, conv, norm)
        assert output.dtype == mode
        gradients = torch.autograd.grad(output.to(weights).square().sum(), [inputs, conv.weight])
        assert {gradient.dtype for gradient in gradients} == {weights}
        results.append([output.double(), *(gradient.double() for gradient in gradients)])
    for one, exact in zip(*results, strict=True):
        assert (one - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [16, 4])
def test_one_of_the_two_may_learn_alone(size, memory_format):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False).double(), spread_out(norm_layer("frozen")(16)).double()
    x = torch.randn(2, 8, size, size, dtype=torch.float64).to(memory_format=memory_format)
    assert scales_weight(x, conv.weight, conv.stride) == (size == 16)
    conv.to(memory_format=memory_format)
    for learns in ("x", "weight"):
        inputs = x.clone(memory_format=torch.preserve_format).requires_grad_(learns == "x")
        conv.weight.requires_grad_(learns == "weight")
        leaf = inputs if learns == "x" else conv.weight
        output, exact = conv_norm(inputs, conv, norm), norm(conv(inputs))
        assert output.is_contiguous(memory_format=memory_format)
        assert_close(output, exact)
        (gradient,), (wanted,) = (torch.autograd.grad(y.square().sum(), leaf) for y in (output, exact))
        assert_close(gradient, wanted)


def test_folded_weight_is_rounded_once_in_autocast():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), spread_out(norm_layer("frozen")(16))
    x = torch.randn(2, 8, 9, 8)
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, shift = conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
    with torch.autocast("cpu", torch.bfloat16):
        folded = conv_norm(x, conv, norm)
    assert torch.equal(folded, F.conv2d(x.bfloat16(), weight.bfloat16(), shift.bfloat16(), padding=1))


def test_network_in_autocast_is_within_its_rounding():
    backbone = spread_out(resnet18())
    images = IMAGES[:, :, :32, :32]
    exact = backbone(images)
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(images)
    for one, other in zip(features, exact, strict=True):
        assert one.dtype == torch.bfloat16
        # 2**-9 in each of 20 convolutions and 8 sums, and as much again for their inputs, adding up at random
        assert (one - other).norm() < 2**-9 * math.sqrt(56) * other.norm()


def saved_bytes(backbone, images):
    """Memory that one forward pass keeps for the backward pass, besides weights and statistics themselves."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*backbone.parameters(), *backbone.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = backbone(images)  # alive while addresses are compared
    assert len(features) == 3
    return sum(size for address, size in kept.items() if address not in owned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_only_what_each_relu_returns_is_kept_for_the_backward_pass(name, dtype):
    """It is the input of the next convolution too, so each is kept once, in the type that the convolution computes in.

    Norms add their factors alone; not a second copy of the weights, nor anything of the frozen stages.
    """
    backbone = ResNet(name, norm="frozen", frozen_stages=2)
    images = IMAGES[:1, :, :32, :64]
    stages = (backbone.layer2, backbone.layer3, backbone.layer4)
    numbers = 0

    def count(module, inputs, output):
        nonlocal numbers
        numbers += output.numel()

    backbone.layer1.register_forward_hook(count)  # what the first learning stage starts from
    relus = [module for stage in stages for module in stage.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(count)
    by_torchvision(backbone, images)
    factors = sum(norm.weight.nbytes for stage in stages for norm in stage.modules() if hasattr(norm, "running_var"))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        saved = saved_bytes(backbone, images)
    assert 0 < saved <= numbers * dtype.itemsize + factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_network_keeps_nothing_for_the_backward_pass(dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert saved_bytes(resnet18(frozen_stages=5), IMAGES[:1, :, :32, :32]) == 0


def step(backbone):
    """One training step with decay, from what the user would do: `train()` first."""
    backbone.train()
    learning = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1, weight_decay=0.1)
    sum(feature.square().mean() for feature in backbone(IMAGES)).backward()
    optimizer.step()


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
@pytest.mark.parametrize("frozen_stages", [0, 1, 2, 4])
def test_frozen_stages_do_not_move_and_the_others_do(norm, frozen_stages):
    backbone = resnet18(norm, frozen_stages)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    step(backbone)
    moved = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    for number, stage in enumerate(STAGES):
        mine = [key for key in before if key.startswith(tuple(stage.split()))]
        if norm == "frozen":  # its statistics and factors are no part of the learning
            learns = [key for key in mine if before[key].ndim == 4]
        else:
            learns = mine
        assert moved & set(mine) == (set() if number < frozen_stages else set(learns)), stage


def test_everything_may_be_frozen():
    backbone = resnet18("batch", frozen_stages=5).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert not any(feature.requires_grad for feature in backbone(IMAGES))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
