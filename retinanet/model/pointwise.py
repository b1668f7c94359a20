"""1x1 convolutions with a stride, computed by selecting the positions that they read."""

import torch.nn.functional as F
from torch import Tensor, nn

from retinanet.model.places import places_of

FEW_CHANNELS = 16


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride, without padding.

    With a stride of 2, fewer than 16 input channels and channels-last inputs, oneDNN's gradient of the weights writes
    past its memory, which ends the process (float32, torch 2.14.1). FastViT, RepVGG and MobileOne have such
    convolutions in their RGB stems. With a stride of 1, it does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, out_channels, ceil(H / stride), ceil(W / stride)) from (B, in_channels, H, W)."""
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def replace_strided_pointwise_(module: nn.Module) -> None:
    """Replace 1x1 convolutions of few channels with a stride by `StridedPointwise`, which shares their weights."""
    for parent, name, conv in places_of(module, nn.Conv2d):
        if type(conv) is not nn.Conv2d or conv.kernel_size != (1, 1) or conv.padding != (0, 0):
            continue
        if conv.stride != (1, 1) and conv.in_channels < FEW_CHANNELS:
            rows, columns = conv.stride
            new = StridedPointwise(
                conv.in_channels, conv.out_channels, 1, stride=(rows, columns), groups=conv.groups, bias=False
            )
            new.weight, new.bias = conv.weight, conv.bias
            parent.add_module(name, new)
