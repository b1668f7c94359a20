"""Convolution followed by its norm; a frozen batch norm is folded into the convolution on each call."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchvision.ops import FrozenBatchNorm2d

Geometry = tuple[Any, Any, Any, int]  # stride, padding, dilation, groups


def conv_norm_reference(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Apply a convolution, then a norm: the reference for `conv_norm`, which agrees up to rounding."""
    return norm(conv(x))


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Apply a convolution without bias, then a norm; a frozen batch norm is folded into the convolution.

    (B, C_in, H, W) -> (B, C_out, H', W').
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return conv_norm_reference(x, conv, norm)
    scale, shift = scale_and_shift(norm)
    return FoldedConv2d.apply(x, conv.weight, scale, shift, (conv.stride, conv.padding, conv.dilation, conv.groups))


def scale_and_shift(norm: FrozenBatchNorm2d | nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """Express a batch norm with fixed statistics as x * scale + shift; both are (channels,)."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class ScaleAndShift(nn.Module):
    """x * scale + shift per channel: a batch norm with fixed statistics. `scale` and `shift` are (channels,)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, channels, H, W)."""
        return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])


class FoldedConv2d(torch.autograd.Function):
    """conv2d(x, weight * scale) + shift, with a constant `scale` and `shift` per output channel.

    Autograd would save weight * scale for the backward pass, a second copy of the network's weights. This function
    saves `weight`, which exists anyway, and repeats the multiplication. Under autocast, the product is rounded only
    once. If the output has fewer positions than a filter has weights, the output of the convolution is multiplied
    instead, and is rounded before and after the multiplication.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, geometry: Geometry) -> Tensor:
        """Compute (B, C_out, H', W') from (B, C_in, H, W)."""
        ctx.scales_weight = scales_weight(x, weight, geometry[0])
        if ctx.scales_weight:
            out = F.conv2d(x, scale_filters(weight, scale), shift, *geometry)
        else:
            out = F.conv2d(x, weight, None, *geometry)
            torch.addcmul(shift[:, None, None], out, scale[:, None, None], out=out)
        ctx.geometry = geometry
        ctx.save_for_backward(x.to(out.dtype), weight, scale)  # autocast chooses the dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of `x` and `weight`; the other inputs are constants."""
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        if ctx.scales_weight:
            used = scale_filters(weight, scale)
        else:
            used, grad = weight, (grad * scale[:, None, None]).to(grad.dtype)
        grad_x, grad_used, _ = torch.ops.aten.convolution_backward(
            grad, x, used.to(x.dtype), None, stride, padding, dilation, False, [0, 0], groups,
            [*ctx.needs_input_grad[:2], False],
        )  # fmt: skip
        if grad_used is None:
            grad_weight = None
        else:
            grad_weight = scale_filters(grad_used, scale) if ctx.scales_weight else grad_used.to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def scales_weight(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether scaling the weights takes no more multiplications than scaling the output, for `x` (B, C_in, H, W).

    Always true in a compiled graph, which must work for all sizes.
    """
    if torch.compiler.is_compiling():
        return True
    num_positions = x.shape[0] * (x.shape[2] // stride[0]) * (x.shape[3] // stride[1])
    return num_positions >= weight[0].numel()


def scale_filters(weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply each filter of `weight` (C_out, C_in, k, k) by its scale (C_out,), in the wider of the two dtypes."""
    return weight * scale[:, None, None, None]
