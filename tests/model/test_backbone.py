import hashlib
import io
import math
import urllib.error
from email.message import Message

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.models import Weights, WeightsEnum
from torchvision.models.resnet import Bottleneck

from retinanet.errors import InputError
from retinanet.model.backbone import ResNet, conv_norm, load_backbone_weights
from retinanet.model.norm import SyncBatchNorm, norm_layer

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


@pytest.fixture(scope="module")
def imagenet_state():
    """What an ImageNet file of resnet18 holds, with weights and statistics of its own."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {key: torch.rand_like(value) + 0.5 if "running" in key else value for key, value in state.items()}


@pytest.fixture(scope="module")
def imagenet_file(imagenet_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(imagenet_state, path)
    return path


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
def test_folded_norm_is_the_norm_after_the_convolution(geometry, dtype, tolerance):
    """In bfloat16 under autocast, where a number is off by up to 2**-9."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, bias=False, **geometry), spread_out(norm_layer("frozen")(16))
    x = torch.randn(2, 8, 9, 7)
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


def test_folded_weight_is_rounded_once_in_autocast():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), spread_out(norm_layer("frozen")(16))
    x = torch.randn(2, 8, 6, 7)
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


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync"])
def test_weights_come_from_a_file(norm, imagenet_state, imagenet_file):
    backbone = resnet18(norm)
    load_backbone_weights(backbone, "resnet18", str(imagenet_file))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, imagenet_state[key]), key


def test_weights_may_lack_classifier_and_counters(imagenet_state, tmp_path):
    headless = {k: v for k, v in imagenet_state.items() if not k.startswith("fc.") and "num_batches" not in k}
    torch.save(headless, tmp_path / "headless.pth")
    backbone = resnet18("batch")
    load_backbone_weights(backbone, "resnet18", str(tmp_path / "headless.pth"))
    assert torch.equal(backbone.bn1.running_var, imagenet_state["bn1.running_var"])


@pytest.mark.parametrize(
    ("name", "norm", "found"),
    [
        ("resnet34", "frozen", "missing"),  # deeper
        ("resnet50", "frozen", "of another shape"),
        ("resnet18", "group", "20 unknown|40 unknown"),  # no statistics to fill
    ],
)
def test_weights_of_another_network_are_refused(name, norm, found, imagenet_file):
    backbone = ResNet(name, norm=norm, frozen_stages=0)
    before = backbone.layer1[0].conv1.weight.clone()
    with pytest.raises(InputError, match=found) as error:
        load_backbone_weights(backbone, name, str(imagenet_file))
    for part in (str(imagenet_file), name, "model.backbone", "model.norm", "model.weights"):
        assert part in str(error.value)
    assert torch.equal(backbone.layer1[0].conv1.weight, before)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "EOFError"),
        (b"<html>404</html>", "UnpicklingError"),
        (b"weights", "not a file of weights"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (nn.Linear(2, 2), "Weights only load failed; give"),  # a pickled module, which may run any code
        (torch.zeros(3), "no plain state dict"),
        ({"model": {"conv1.weight": torch.zeros(3)}}, "no plain state dict"),
        ({1: torch.zeros(3)}, "no plain state dict"),
        ([torch.zeros(3)], "no plain state dict"),
    ],
)
def test_file_without_weights_is_refused(content, found, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=found) as error:
        load_backbone_weights(resnet18(), "resnet18", str(path))
    assert str(path) in str(error.value) and "model.weights" in str(error.value)
    assert "weights_only" not in str(error.value)  # torch proposes to load it unsafely


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(InputError, match=r"model\.weights") as error:
            load_backbone_weights(resnet18(), "resnet18", str(path))
        assert str(path) in str(error.value)


def test_pickled_code_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError):
        load_backbone_weights(resnet18(), "resnet18", str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("reason", [urllib.error.URLError("no route to host"), TimeoutError("no route to host")])
@pytest.mark.parametrize("weights", ["imagenet", "IMAGENET1K_V1"])
def test_failed_download_says_what_to_do(weights, reason, torch_home, monkeypatch):
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(request.full_url)
        raise reason

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    backbone = resnet18()
    before = backbone.conv1.weight.clone()
    with pytest.raises(InputError, match="no route to host") as error:
        load_backbone_weights(backbone, "resnet18", weights)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    assert asked == [url]
    for part in (url, str(torch_home / "hub" / "checkpoints" / "resnet18-f37072fd.pth"), "model.weights="):
        assert part in str(error.value)
    assert torch.equal(backbone.conv1.weight, before)


def test_damaged_download_is_refused(torch_home, monkeypatch):
    class Answer(io.BytesIO):
        def info(self):
            return Message()  # no headers

    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: Answer(b"half a file"))
    with pytest.raises(InputError, match="invalid hash value"):
        load_backbone_weights(resnet18(), "resnet18", "imagenet")
    assert list((torch_home / "hub" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(40)])
def test_broken_file_in_the_place_of_a_download_is_refused(content, torch_home):
    target = torch_home / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.weights") as error:
        load_backbone_weights(resnet18(), "resnet18", "imagenet")
    assert str(target) in str(error.value)


def published(path, digest, monkeypatch):
    """Let torchvision know `path` as the newest weights of resnet18, with a hash in its name as theirs have."""
    named = path.with_name(f"resnet18-{digest[:8]}.pth")
    named.write_bytes(path.read_bytes())

    class Known(WeightsEnum):
        IMAGENET1K_V1 = Weights(url=named.as_uri(), transforms=None, meta={})
        DEFAULT = IMAGENET1K_V1

    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: Known)
    return named.name


def test_download_is_checked_and_loaded(imagenet_file, imagenet_state, torch_home, monkeypatch):
    name = published(imagenet_file, hashlib.sha256(imagenet_file.read_bytes()).hexdigest(), monkeypatch)
    backbone = resnet18()
    load_backbone_weights(backbone, "resnet18", "imagenet")
    assert torch.equal(backbone.layer4[1].conv2.weight, imagenet_state["layer4.1.conv2.weight"])
    assert (torch_home / "hub" / "checkpoints" / name).exists()


def test_download_with_another_hash_is_refused(imagenet_file, torch_home, monkeypatch):
    published(imagenet_file, "0123456789", monkeypatch)
    with pytest.raises(InputError, match="invalid hash value"):
        load_backbone_weights(resnet18(), "resnet18", "imagenet")


def test_unknown_name_is_refused_with_the_known_ones(torch_home):
    with pytest.raises(
        InputError, match=r"IMAGENET1K_V9 is not known for resnet18; known are imagenet, IMAGENET1K_V1$"
    ):
        load_backbone_weights(resnet18(), "resnet18", "IMAGENET1K_V9")


def checkpointed(backbone):
    """The same network, which computes its blocks again on the way back."""
    name = "resnet50" if backbone.out_channels[-1] == 2048 else "resnet18"
    kinds = {torchvision.ops.FrozenBatchNorm2d: "frozen", nn.BatchNorm2d: "batch", nn.GroupNorm: "group"}
    kinds[SyncBatchNorm] = "sync"
    twin = ResNet(name, norm=kinds[type(backbone.bn1)], frozen_stages=0, checkpoint_activations=True)
    twin.load_state_dict(backbone.state_dict())
    return twin


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
@pytest.mark.parametrize(
    ("name", "dtype"), [("resnet18", torch.float32), ("resnet18", torch.bfloat16), ("resnet50", torch.float32)]
)
def test_blocks_computed_again_give_the_same_bits(name, norm, dtype):
    """Features, gradients, and running statistics after two steps: they have moved twice, not four times."""
    torch.manual_seed(0)
    plain = spread_out(ResNet(name, norm=norm, frozen_stages=0)).train()
    again = checkpointed(plain).train()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            ours, expected = (features_and_gradients(net, net, IMAGES[:, :, :32, :64]) for net in (again, plain))
        assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
    for (key, value), other in zip(again.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
        assert "num_batches" not in key or value == 2


@pytest.mark.parametrize(("norm", "most"), [("frozen", 0.7), ("batch", 0.5), ("group", 0.5)])
def test_blocks_computed_again_keep_their_inputs_alone(norm, most):
    """Of all that is kept, a share: the most with a frozen norm, which keeps little as it is."""
    torch.manual_seed(0)
    plain = ResNet("resnet50", norm=norm, frozen_stages=0).train()
    again = checkpointed(plain).train()
    images = IMAGES[:1, :, :32, :64]
    blocks = 0

    def count(module, inputs, output):
        nonlocal blocks
        blocks += inputs[0].nbytes

    handles = [block.register_forward_hook(count) for block in plain.modules() if isinstance(block, Bottleneck)]
    by_torchvision(plain, images)
    for handle in handles:
        handle.remove()
    # The stem is no block. Before the maximum of 2x2 cells with stride 2 it is four times as large as after, and its
    # indices are int64; what norms keep of it is as large as its convolution's result.
    stem = 64 * 16 * 32 * 4
    stem_kept = images.nbytes + stem * (2 if norm == "frozen" else 3) + stem // 4 * 2
    saved, whole = saved_bytes(again, images), saved_bytes(plain, images)
    assert blocks <= saved <= blocks + stem_kept
    assert saved < most * whole


def test_a_network_in_evaluation_or_frozen_computes_nothing_again(monkeypatch):
    monkeypatch.setattr("retinanet.model.backbone.checkpoint", None)  # would be called in vain
    backbone = checkpointed(resnet18("batch"))
    with torch.no_grad():
        backbone.train()(IMAGES)
    frozen = ResNet("resnet18", norm="batch", frozen_stages=5, checkpoint_activations=True).train()
    assert len(frozen(IMAGES)) == 3


def test_statistics_are_the_same_tensors_after_a_step():
    """Whoever holds them, as an average or a guard does, goes on seeing them."""
    backbone = checkpointed(resnet18("batch")).train()
    before = dict(backbone.named_buffers())
    sum(feature.square().mean() for feature in backbone(IMAGES)).backward()
    assert all(value is before[key] for key, value in backbone.named_buffers())


def test_the_host_reads_nothing_when_blocks_are_computed_again(host_reads):
    backbone = checkpointed(resnet18("batch")).train()
    with host_reads() as reads:
        sum(feature.square().mean() for feature in backbone(IMAGES)).backward()
    assert reads == []


@pytest.mark.slow  # traced graphs of 30 convolutions
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_compiled_graphs_compute_blocks_again_to_the_same_bits(norm):
    torch.manual_seed(0)
    plain = ResNet("resnet18", norm=norm, frozen_stages=0).train()
    again = checkpointed(plain).train()
    images = IMAGES[:, :, :32, :64]
    compiled = torch.compile(again, backend="aot_eager")
    expected = features_and_gradients(plain, plain, images)
    for one, other in zip(features_and_gradients(compiled, again, images), expected, strict=True):
        assert torch.equal(one, other)
    for (key, value), other in zip(again.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
