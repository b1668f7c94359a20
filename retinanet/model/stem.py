"""Adapt the first convolution of a network pretrained on RGB images to another number of channels."""

from collections.abc import Mapping

import torch
from torch import Tensor


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Convert the filters of a first convolution from RGB to C channels, keeping the response to grey images.

    For any C, the filters of all channels sum to R + G + B, those of the three colours. If all channels of an image are
    equal, the network therefore computes what it computes for the grey RGB image.

    - C = 3: unchanged.
    - C < 3: each channel gets (R + G + B) / C.
    - C > 3: filters repeat in the order R, G, B, R, ..., each divided by the number of channels that share it.

    For one channel and for multiples of three, this is the rule of timm (`adapt_input_conv`), which for other numbers
    repeats the filters as well but scales all of them by 3 / C.

    Args:
        weight: (F, 3, h, w), for channels in the order red, green, blue.

    Returns: (F, C, h, w).
    """
    if in_channels == weight.shape[1]:
        return weight
    if in_channels < 3:
        return (weight.sum(dim=1, keepdim=True) / in_channels).repeat(1, in_channels, 1, 1)
    color = torch.arange(in_channels, device=weight.device) % 3
    sharing = torch.bincount(color, minlength=3)
    return weight[:, color] / sharing[color].to(weight.dtype).view(1, -1, 1, 1)


def adapted_stem(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions of RGB images that take another number of channels in `expected`, adapted to it; at most one."""
    return {
        name: adapt_stem(weight, expected[name].shape[1])
        for name, weight in state.items()
        if name in expected and weight.ndim == expected[name].ndim == 4
        if weight.shape[1] == 3 != expected[name].shape[1]
    }
