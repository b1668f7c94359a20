"""Narrow feature maps, for which a stride-2 convolution in bfloat16 reads uninitialised memory."""

import pytest
import torch
from torch import nn

from retinanet.model.fpn import halve


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 1), (1, 2), (3, 2), (4, 5)])
def test_halve_equals_the_convolution(size):
    conv = nn.Conv2d(8, 6, 3, stride=2, padding=1)
    feature = torch.randn(2, 8, *size)
    torch.testing.assert_close(halve(conv, feature), conv(feature))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 1), (1, 2), (3, 2), (4, 5)])
def test_gradient_in_bfloat16_is_near_that_of_float32(size):
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        conv = nn.Conv2d(64, 64, 3, stride=2, padding=1).to(memory_format=torch.channels_last)
        feature = torch.randn(4, 64, *size).contiguous(memory_format=torch.channels_last)
        for _ in range(5):
            conv.weight.grad = None
            halve(conv, feature).sum().backward()
            expected = conv.weight.grad.clone()
            conv.weight.grad = None
            with torch.autocast("cpu", torch.bfloat16):
                output = halve(conv, feature)
            output.float().sum().backward()
            torch.testing.assert_close(conv.weight.grad, expected, rtol=0.02, atol=0.05)
    finally:
        torch.use_deterministic_algorithms(False)


def test_output_in_bfloat16_is_finite_at_width_2():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        conv = nn.Conv2d(512, 64, 3, stride=2, padding=1).to(torch.bfloat16, memory_format=torch.channels_last)
        feature = torch.randn(4, 512, 3, 2, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        expected = conv.float()(feature.float())
        conv.to(torch.bfloat16)
        for size in range(1, 40):
            torch.empty(size * 50_000)  # leaves NaN in memory that the convolution may reuse
            with torch.no_grad():
                torch.testing.assert_close(halve(conv, feature).float(), expected, rtol=0.02, atol=0.05)
    finally:
        torch.use_deterministic_algorithms(False)
