"""Blocks that are computed again on the way back: the same numbers for less memory."""

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.models.resnet import Bottleneck

from retinanet.model.norm import SyncBatchNorm
from retinanet.model.resnet import ResNet
from tests.model.test_resnet import (
    IMAGES,
    by_torchvision,
    features_and_gradients,
    resnet18,
    saved_bytes,
    spread_out,
)


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
    monkeypatch.setattr("retinanet.model.resnet.checkpoint", None)  # would be called in vain
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
    plain = ResNet("resnet18", norm=norm, frozen_stages=0).double().train()
    again = checkpointed(plain).double().train()
    images = IMAGES[:, :, :32, :64].double()
    results = features_and_gradients(torch.compile(again, backend="aot_eager"), again, images)
    expected = features_and_gradients(plain, plain, images)
    if norm == "frozen":  # a graph multiplies norms into all weights, where eager code chooses by the size of a map
        for one, other in zip(results, expected, strict=True):
            assert_close(one, other, rtol=0, atol=1e-12 * other.abs().max().item())
        expected = features_and_gradients(torch.compile(plain, backend="aot_eager"), plain, images)
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(one, other)
    for (key, value), other in zip(again.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
