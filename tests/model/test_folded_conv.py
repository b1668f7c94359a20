import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from retinanet.model.folded_conv import conv_norm, conv_norm_reference, scales_weight
from retinanet.model.norm import norm_layer
from tests.helpers.backbones import spread_out


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-6)]
)
@pytest.mark.parametrize("geometry", [{}, {"stride": 2}, {"padding": 1, "groups": 4}, {"padding": 2, "dilation": 2}])
@pytest.mark.parametrize(("shape", "by_weight"), [((2, 8, 21, 18), True), ((1, 8, 5, 3), False)])
def test_folded_norm_equals_the_reference_within_rounding(shape, by_weight, geometry, dtype, tolerance):
    """bfloat16 runs under autocast, where rounding has a relative error of up to 2**-9."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, bias=False, **geometry), spread_out(norm_layer("frozen")(16))
    x = torch.randn(shape)
    assert scales_weight(x, conv.weight, conv.stride) == by_weight  # a filter has 72 or 18 weights
    results = []
    for mode, function in ((dtype, conv_norm), (torch.float64, conv_norm_reference)):
        weights = torch.float64 if mode == torch.float64 else torch.float32
        conv, norm, inputs = conv.to(weights), norm.to(weights), x.to(weights).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == torch.bfloat16):
            output = function(inputs, conv, norm)
        assert output.dtype == mode
        gradients = torch.autograd.grad(output.to(weights).square().sum(), [inputs, conv.weight])
        assert {gradient.dtype for gradient in gradients} == {weights}
        results.append([output.double(), *(gradient.double() for gradient in gradients)])
    for one, exact in zip(*results, strict=True):
        assert (one - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [16, 4])
def test_gradient_equals_the_reference_when_only_one_input_requires_it(size, memory_format):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False).double(), spread_out(norm_layer("frozen")(16)).double()
    x = torch.randn(2, 8, size, size, dtype=torch.float64).to(memory_format=memory_format)
    assert scales_weight(x, conv.weight, conv.stride) == (size == 16)
    conv.to(memory_format=memory_format)
    for learns in ("x", "weight"):
        inputs = x.clone(memory_format=torch.preserve_format).requires_grad_(learns == "x")
        conv.weight.requires_grad_(learns == "weight")
        leaf = inputs if learns == "x" else conv.weight
        output, exact = conv_norm(inputs, conv, norm), conv_norm_reference(inputs, conv, norm)
        assert output.is_contiguous(memory_format=memory_format)
        assert_close(output, exact)
        (gradient,), (expected,) = (torch.autograd.grad(y.square().sum(), leaf) for y in (output, exact))
        assert_close(gradient, expected)


def test_folded_weight_is_rounded_once_in_autocast():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), spread_out(norm_layer("frozen")(16))
    x = torch.randn(2, 8, 9, 8)
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, shift = conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
    with torch.autocast("cpu", torch.bfloat16):
        folded = conv_norm(x, conv, norm)
    assert torch.equal(folded, F.conv2d(x.bfloat16(), weight.bfloat16(), shift.bfloat16(), padding=1))
