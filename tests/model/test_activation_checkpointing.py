"""Activation checkpointing of the backbone: identical results with less memory."""

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.models.resnet import Bottleneck

from retinanet.model.norm import GroupNorm, SyncBatchNorm
from retinanet.model.resnet import ResNet
from tests.helpers.backbones import (
    IMAGES,
    by_torchvision,
    features_and_gradients,
    resnet18,
    saved_bytes,
    spread_out,
)


def checkpointed(backbone):
    """The same network with activation checkpointing."""
    name = "resnet50" if backbone.out_channels[-1] == 2048 else "resnet18"
    kinds = {torchvision.ops.FrozenBatchNorm2d: "frozen", nn.BatchNorm2d: "batch", GroupNorm: "group"}
    kinds[SyncBatchNorm] = "sync"
    twin = ResNet(name, norm=kinds[type(backbone.bn1)], frozen_stages=0, checkpoint_activations=True)
    twin.load_state_dict(backbone.state_dict())
    return twin


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync", "group"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("resnet18", torch.float32),
        ("resnet18", torch.bfloat16),
        pytest.param("resnet50", torch.float32, marks=pytest.mark.slow),
    ],
)
def test_checkpointed_blocks_give_bit_identical_results(name, norm, dtype):
    """Compare features, gradients, and running statistics, which two steps must update twice, not four times."""
    torch.manual_seed(0)
    plain = spread_out(ResNet(name, norm=norm, frozen_stages=0)).train()
    recomputing = checkpointed(plain).train()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            ours, expected = (features_and_gradients(net, net, IMAGES[:, :, :32, :64]) for net in (recomputing, plain))
        assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
    for (key, value), other in zip(recomputing.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
        assert "num_batches" not in key or value == 2


@pytest.mark.parametrize(("norm", "most"), [("frozen", 0.7), ("batch", 0.5), ("group", 0.5)])
def test_checkpointed_blocks_save_only_their_inputs(norm, most):
    """Frozen norms benefit least, because they store little without checkpointing."""
    torch.manual_seed(0)
    plain = ResNet("resnet50", norm=norm, frozen_stages=0).train()
    recomputing = checkpointed(plain).train()
    images = IMAGES[:1, :, :32, :64]
    blocks = 0

    def count(module, inputs, output):
        nonlocal blocks
        blocks += inputs[0].nbytes

    handles = [block.register_forward_hook(count) for block in plain.modules() if isinstance(block, Bottleneck)]
    by_torchvision(plain, images)
    for handle in handles:
        handle.remove()
    # The stem is not a block. Its output is four times as large before max pooling as after, the indices of the
    # pooling are int64, and a norm saves as much as the output of its convolution.
    stem = 64 * 16 * 32 * 4
    stem_kept = images.nbytes + stem * (2 if norm == "frozen" else 3) + stem // 4 * 2
    saved, whole = saved_bytes(recomputing, images), saved_bytes(plain, images)
    assert blocks <= saved <= blocks + stem_kept
    assert saved < most * whole


def test_nothing_is_recomputed_without_gradients(monkeypatch):
    monkeypatch.setattr("retinanet.model.resnet.checkpoint", None)  # a call would fail
    backbone = checkpointed(resnet18("batch"))
    with torch.no_grad():
        backbone.train()(IMAGES)
    frozen = ResNet("resnet18", norm="batch", frozen_stages=5, checkpoint_activations=True).train()
    assert len(frozen(IMAGES)) == 3


def test_step_updates_running_statistics_in_place():
    """The weight average and the non-finite guard keep references to them."""
    backbone = checkpointed(resnet18("batch")).train()
    before = dict(backbone.named_buffers())
    sum(feature.square().mean() for feature in backbone(IMAGES)).backward()
    assert all(value is before[key] for key, value in backbone.named_buffers())


def test_checkpointing_does_not_wait_for_the_device(host_reads):
    backbone = checkpointed(resnet18("batch")).train()
    with host_reads() as reads:
        sum(feature.square().mean() for feature in backbone(IMAGES)).backward()
    assert reads == []


@pytest.mark.slow  # traces graphs of 30 convolutions
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_checkpointed_blocks_are_bit_identical_in_compiled_graphs(norm):
    torch.manual_seed(0)
    plain = ResNet("resnet18", norm=norm, frozen_stages=0).double().train()
    recomputing = checkpointed(plain).double().train()
    images = IMAGES[:, :, :32, :64].double()
    results = features_and_gradients(torch.compile(recomputing, backend="aot_eager"), recomputing, images)
    expected = features_and_gradients(plain, plain, images)
    if norm == "frozen":  # a compiled graph scales all weights, while eager code decides by the size of the map
        for one, other in zip(results, expected, strict=True):
            assert_close(one, other, rtol=0, atol=1e-12 * other.abs().max().item())
        expected = features_and_gradients(torch.compile(plain, backend="aot_eager"), plain, images)
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(one, other)
    for (key, value), other in zip(recomputing.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
