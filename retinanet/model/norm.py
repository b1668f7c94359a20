"""Normalisation layers that a config can select."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from retinanet.config.model import Norm
from retinanet.model.places import places_of
from retinanet.runtime.distributed import world_size

GROUPS = 32
EPS = 1e-5  # torch's default
SLOW_BFLOAT16_POSITIONS = 1024  # torch uses another kernel for feature maps with at least this many positions


def norm_layer(norm: Norm, eps: float = EPS) -> Callable[[int], nn.Module]:
    """Return a function that builds the named layer for a given number of channels; `eps` is added to the variance."""
    match norm:
        case "frozen":
            return partial(FrozenBatchNorm2d, eps=eps)
        case "batch":
            return partial(nn.BatchNorm2d, eps=eps)
        case "sync":
            return partial(SyncBatchNorm, eps=eps)
        case "group":
            return partial(GroupNorm, GROUPS, eps=eps)


class GroupNorm(nn.GroupNorm):
    """Group norm that processes small bfloat16 feature maps in float32 on a CPU, where torch's bfloat16 kernel is slow.

    Including the two conversions, this takes half the time for maps of 320 to 500 positions (torch 2.14.1), and is more
    accurate.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, channels, H, W)."""
        # A compiled graph must work for all sizes, and fuses the conversions.
        if x.dtype != torch.bfloat16 or not x.is_cpu or torch.compiler.is_compiling():
            return super().forward(x)
        if x.shape[2] * x.shape[3] >= SLOW_BFLOAT16_POSITIONS:
            return super().forward(x)
        out = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        return out.to(x.dtype)


class LevelBatchNorm(nn.BatchNorm2d):
    """Batch norm for one pyramid level; a single value per channel is normalised with the running statistics.

    The coarsest level of a small image has one position. With one image, the variance would be undefined.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, channels, H, W)."""
        if self.training and has_one_value(x):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def has_one_value(x: Tensor) -> bool:
    """Whether each channel of (B, channels, H, W) has a single value."""
    return x.shape[0] * x.shape[2] * x.shape[3] == 1


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with statistics over the batches of all processes; unlike torch's SyncBatchNorm, it supports CPUs.

    It does not subclass torch's SyncBatchNorm, since DistributedDataParallel rejects such layers on a CPU. On CUDA,
    `use_cuda_sync_norms_` replaces these layers with torch's.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, channels, H, W)."""
        if not self.training or world_size() == 1:
            training = self.training and not has_one_value(x)  # as in `LevelBatchNorm`
            if training:
                self.num_batches_tracked.add_(1)
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training, self.momentum, self.eps
            )
        return self._over_ranks(x)

    def _over_ranks(self, x: Tensor) -> Tensor:
        values = x.to(torch.promote_types(x.dtype, torch.float32))  # at least float32
        # Processes may have different numbers of images, so reduce sums, together with the count.
        ones = values.new_full((1,), x.numel() / x.shape[1])
        sums = _SumOverRanks.apply(torch.cat([values.sum((0, 2, 3)), ones]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        # Square the centred values: subtracting the squared mean from the mean square would lose precision.
        centred = values - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class SyncBatchNormAct(SyncBatchNorm):
    """Synchronised batch norm followed by other modules, as in timm's `BatchNormAct2d`, with the same weight names.

    Args:
        norm: batch norm with affine parameters, which it shares; its child modules are applied after normalisation.
    """

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self._buffers.update(norm._buffers)
        for name, child in norm.named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, channels, H, W), then apply the other modules."""
        x = super().forward(x)
        for child in self.children():
            x = child(x)
        return x


def synchronise_norms_(module: nn.Module) -> None:
    """Replace every batch norm within a module by one with statistics over the batches of all processes."""
    for parent, name, norm in places_of(module, nn.BatchNorm2d):
        if not isinstance(norm, SyncBatchNorm):
            parent.add_module(name, SyncBatchNormAct(norm))


def use_cuda_sync_norms_(module: nn.Module) -> None:
    """Replace every `SyncBatchNorm` within a module by torch's, which is faster on CUDA and does not run elsewhere."""
    for parent, name, norm in places_of(module, SyncBatchNorm):
        if not list(norm.children()):
            parent.add_module(name, nn.SyncBatchNorm.convert_sync_batchnorm(norm))


class _SumOverRanks(torch.autograd.Function):
    """Differentiable all-reduce: both the values and their gradients are summed over all processes.

    It replaces `torch.distributed.nn.functional.all_reduce`, deprecated since torch 2.14. The functional collective
    that torch recommends instead is designed for compiled graphs and has a different backward pass.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _SumOverRanks.apply(grad)
