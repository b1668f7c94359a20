"""Feature pyramid (Lin et al. 2017, "Feature Pyramid Networks"), P3 to P7."""

import torch.nn.functional as F
from torch import Tensor, nn

from retinanet.config.model import P6Source


class FeaturePyramid(nn.Module):
    """C3, C4, C5 -> P3 to P7, all of `channels` channels.

    Args:
        in_channels: of C3, C4 and C5.
        channels: of every output.
        p6_from: "c5" is the paper's, "p5" that of some later code. P7 is made from ReLU(P6).
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, *, p6_from: P6Source = "c5"):
        super().__init__()
        self.p6_from = p6_from
        self.laterals = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.p6 = nn.Conv2d(in_channels[-1] if p6_from == "c5" else channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # uniform Xavier for equal fan-in and fan-out
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        merged = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            # To the exact size of the finer level: an odd size does not double evenly.
            coarse = F.interpolate(merged[level], size=merged[level - 1].shape[-2:], mode="nearest")
            merged[level - 1].add_(coarse)  # in place: a convolution keeps its input for the backward pass, not this
        pyramid = [output(feature) for output, feature in zip(self.outputs, merged, strict=True)]
        p6 = halve(self.p6, features[-1] if self.p6_from == "c5" else pyramid[-1])
        return [*pyramid, p6, halve(self.p7, F.relu(p6))]


def halve(conv: nn.Conv2d, feature: Tensor) -> Tensor:
    """A 3x3 convolution of stride 2 and padding 1.

    A map one cell wide meets the middle column of the kernel alone, and is given nothing else: in bfloat16 on a CPU,
    oneDNN's weight gradient for the whole kernel then holds memory that nobody wrote (torch 2.14.1).
    """
    if feature.shape[-1] == 1:
        return F.conv2d(feature, conv.weight[..., 1:2], conv.bias, stride=2, padding=(1, 0))
    return conv(feature)
