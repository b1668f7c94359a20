import json

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from retinanet.model.folded_conv import conv_norm
from retinanet.model.norm import (
    SLOW_BFLOAT16_POSITIONS,
    GroupNorm,
    LevelBatchNorm,
    SyncBatchNorm,
    SyncBatchNormAct,
    norm_layer,
    synchronise_norms_,
    use_cuda_sync_norms_,
)
from retinanet.model.resnet import ResNet
from tests.helpers.norm_inputs import images, weights
from tests.helpers.processes import run_together

SHARE = """
    import json
    import torch
    from retinanet.runtime.distributed import process_group, rank, share_of, world_size
    from retinanet.model.norm import SyncBatchNorm
    from tests.helpers.norm_inputs import images, weights

    with process_group(torch.device("cpu"), timeout=60):
        norm, every = SyncBatchNorm(6), images()
        part = share_of(range(len(every)), rank(), world_size())
        x = every[part.start : part.stop].clone().requires_grad_()
        for _ in range(2):
            out = norm(x)
        (out * weights()[part.start : part.stop]).sum().backward()
        results = {
            "out": out.tolist(), "grad": x.grad.tolist(), "mean": norm.running_mean.tolist(),
            "var": norm.running_var.tolist(), "seen": int(norm.num_batches_tracked),
            "weight": norm.weight.grad.tolist(), "bias": norm.bias.grad.tolist(),
        }
    print(json.dumps(results))
"""


@pytest.mark.slow
def test_two_processes_with_unequal_batches_equal_batch_norm_on_all_images():
    results = [json.loads(text) for text in run_together(2, SHARE)]
    norm, x = nn.BatchNorm2d(6), images().requires_grad_()
    for _ in range(2):
        out = norm(x)
    (out * weights()).sum().backward()
    assert [len(part["out"]) for part in results] == [2, 3]
    assert_close(torch.tensor(results[0]["out"] + results[1]["out"]), out, rtol=1e-5, atol=1e-5)
    assert_close(torch.tensor(results[0]["grad"] + results[1]["grad"]), x.grad, rtol=1e-4, atol=1e-5)
    for part in results:
        assert_close(torch.tensor(part["mean"]), norm.running_mean)
        assert_close(torch.tensor(part["var"]), norm.running_var)
        assert part["seen"] == 2
    # The gradients of weight and bias are sums over images, which DistributedDataParallel would add up.
    for name, parameter in (("weight", norm.weight), ("bias", norm.bias)):
        assert_close(
            torch.tensor(results[0][name]) + torch.tensor(results[1][name]), parameter.grad, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("training", [True, False])
def test_one_process_equals_batch_norm(training):
    ours, theirs = SyncBatchNorm(6).train(training), nn.BatchNorm2d(6).train(training)
    for _ in range(2):
        assert_close(ours(images()), theirs(images()))
    assert_close(ours.state_dict(), theirs.state_dict())


def test_convert_sync_batchnorm_replaces_our_layer_with_torchs():
    backbone = ResNet("resnet18", norm="sync", frozen_stages=0)
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    kinds = [type(module) for module in converted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kinds == [nn.SyncBatchNorm] * 20
    assert_close(dict(converted.state_dict()), state, rtol=0, atol=0)


def test_frozen_norm_equals_batch_norm_in_evaluation_mode():
    """Also where the variance is so small that epsilon decides: 1e-6 next to torch's 1e-5."""
    torch.manual_seed(0)
    learned, frozen = nn.BatchNorm2d(8).eval(), norm_layer("frozen")(8)
    with torch.no_grad():
        learned.running_var.copy_(torch.logspace(-6, 1, 8))
        for values in (learned.running_mean, learned.weight, learned.bias):
            values.uniform_(0.5, 2.0)
    frozen.load_state_dict(learned.state_dict())  # as pretrained weights are loaded
    learned.double(), frozen.double()
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64)
    conv = nn.Conv2d(8, 8, 1, bias=False).double()
    assert_close(frozen(x), learned(x), rtol=1e-12, atol=1e-12)
    assert_close(conv_norm(x, conv, frozen), learned(conv(x)), rtol=1e-12, atol=1e-12)


def test_norm_layer_returns_the_named_layers():
    assert isinstance(norm_layer("sync")(8), SyncBatchNorm)
    assert isinstance(norm_layer("group")(64), nn.GroupNorm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(31, 33), (32, 32)])
def test_group_norm_equals_torchs_in_float32_rounded_once(dtype, size):
    """Feature maps with fewer than SLOW_BFLOAT16_POSITIONS positions, and with exactly that many."""
    small = size[0] * size[1] < SLOW_BFLOAT16_POSITIONS
    torch.manual_seed(0)
    norm, plain = GroupNorm(32, 64), nn.GroupNorm(32, 64)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.0)
        norm.bias.uniform_(-0.5, 0.5)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(2, 64, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    rounds_once = dtype == torch.bfloat16 and small
    if dtype == torch.float64:
        norm, plain = norm.double(), plain.double()
    one, other = x.clone().requires_grad_(), x.clone().to(torch.float32 if rounds_once else dtype).requires_grad_()
    out, expected = norm(one), plain(other).to(dtype)
    assert out.dtype == dtype
    assert_close(out, expected, rtol=0, atol=0)
    for result in (out, expected):
        result.float().square().sum().backward()
    assert_close(one.grad, other.grad.to(dtype), rtol=0, atol=0)
    assert_close([p.grad for p in norm.parameters()], [p.grad for p in plain.parameters()], rtol=0, atol=0)


def test_group_norm_accepts_weights_in_bfloat16():
    norm = GroupNorm(32, 64).to(torch.bfloat16)
    assert norm(torch.randn(2, 64, 5, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
def test_eps_is_added_to_the_variance(norm):
    """An input with variance 5 and eps 4 is divided by 3."""
    layer = norm_layer(norm, 4.0)(32 if norm == "group" else 1).eval()
    if norm != "group":
        layer.running_var.fill_(5.0)
    x = torch.tensor([-1.0, 1.0, -1.0, 1.0]) * 5**0.5  # mean 0 and variance 5
    x = x.view(1, 1, 2, 2).expand(1, 32 if norm == "group" else 1, 2, 2)
    assert_close(layer(x), x / 3)


def test_norms_with_an_activation_keep_it_when_others_become_cuda_sync_norms():
    """torch's own conversion would drop the child modules of `SyncBatchNormAct`."""
    norm = nn.BatchNorm2d(2)
    norm.add_module("act", nn.ReLU())
    module = nn.Sequential(nn.BatchNorm2d(2), norm)
    synchronise_norms_(module)
    use_cuda_sync_norms_(module)
    assert type(module[0]) is nn.SyncBatchNorm and type(module[1]) is SyncBatchNormAct
    assert module[1].weight is norm.weight
    x = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    assert_close(module[1](x), nn.BatchNorm2d(2)(x).relu())


@pytest.mark.parametrize("norm", [LevelBatchNorm, SyncBatchNorm])
def test_single_value_per_channel_is_normalised_with_the_running_statistics(norm):
    layer = norm(2).train()
    layer.running_mean.copy_(torch.tensor([1.0, 2.0]))
    layer.running_var.fill_(4 - layer.eps)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    out = layer(torch.tensor([5.0, 2.0]).view(1, 2, 1, 1))
    assert_close(out.flatten(), torch.tensor([2.0, 0.0]))  # (5 - 1) / 2 and (2 - 2) / 2
    assert_close(dict(layer.state_dict()), before, rtol=0, atol=0)
