"""1x1 convolutions with a stride, compared with torch's in the layout that it computes correctly."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from retinanet.model.pointwise import StridedPointwise, replace_strided_pointwise_


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9), (1, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_equal_those_of_conv2d(memory_format, height, width):
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 1, stride=2, bias=True)
    module = nn.Sequential(plain)
    replace_strided_pointwise_(module)
    assert type(module[0]) is StridedPointwise and module[0].weight is plain.weight
    results = []
    for conv, layout in ((plain, torch.contiguous_format), (module[0], memory_format)):
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
        images = images.to(memory_format=layout).requires_grad_()
        out = conv(images)
        results.append([out, *torch.autograd.grad(out.square().sum(), [images, *plain.parameters()])])
    assert_close(*results)


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(16, 5, 1, stride=2), nn.Conv2d(3, 5, 1, 2, padding=1)],
    ids=["stride 1", "3x3", "16 channels", "padding"],
)
def test_other_convolutions_remain(conv):
    module = nn.Sequential(conv)
    replace_strided_pointwise_(module)
    assert module[0] is conv
