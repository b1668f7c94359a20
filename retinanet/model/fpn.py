"""Feature pyramid network, by default P3 to P7 (Lin et al. 2017, "Feature Pyramid Networks for Object Detection")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retinanet.config.model import P6Source


class FeaturePyramid(nn.Module):
    """Computes P3 to P7, with `channels` channels each, from C3, C4 and C5; with C2 as well, it also computes P2.

    P7 is computed from ReLU(P6).

    Args:
        in_channels: number of channels of C3, C4 and C5, or of C2 to C5.
        channels: number of channels of every output.
        p6_from: input of P6: "c5" as in the RetinaNet paper, or "p5" as in some later implementations.
        last: number of the last level, 5, 6 or 7.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, *, p6_from: P6Source = "c5", last: int = 7):
        super().__init__()
        self.p6_from = p6_from
        self.laterals = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        p6_channels = in_channels[-1] if p6_from == "c5" else channels
        self.p6 = nn.Conv2d(p6_channels, channels, 3, stride=2, padding=1) if last >= 6 else None
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if last >= 7 else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # equals Xavier uniform if fan-in and fan-out are equal
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Compute all levels, each (B, channels, H_l, W_l), from feature maps, each (B, in_channels[i], H_l, W_l)."""
        merged = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            # Resize to the exact size of the finer level: doubling does not work for odd sizes.
            coarse = F.interpolate(merged[level], size=merged[level - 1].shape[-2:], mode="nearest")
            # In place is safe: convolutions save their input for backward, not their output.
            merged[level - 1].add_(coarse)
        pyramid = [output(feature) for output, feature in zip(self.outputs, merged, strict=True)]
        if self.p6 is not None:
            pyramid.append(halve(self.p6, features[-1] if self.p6_from == "c5" else pyramid[-1]))
        if self.p7 is not None:
            pyramid.append(halve(self.p7, F.relu(pyramid[-1])))
        return pyramid


def halve(conv: nn.Conv2d, feature: Tensor) -> Tensor:
    """Apply a 3x3 convolution with stride 2 and padding 1.

    On a feature map of width 1 or 2, only 1 or 2 columns of the kernel cover data, and only those are used. With the
    full kernel, oneDNN's bfloat16 convolution on a CPU reads uninitialised memory (torch 2.14.1), which corrupts the
    gradient of the weights at width 1, and the output at width 2.
    """
    width = feature.shape[-1]
    if not torch.compiler.is_exporting() and width <= 2:  # an exported program is for all sizes, and in float32
        return F.conv2d(feature, conv.weight[..., 1 : 1 + width], conv.bias, stride=2, padding=(1, 0))
    return conv(feature)
