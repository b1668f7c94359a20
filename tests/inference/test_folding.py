"""Folding of batch norms into convolutions, and the check that it changes no output."""

import logging

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.ops import FrozenBatchNorm2d

from retinanet.inference.folding import fold_norms_
from tests.helpers.backbones import spread_out

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class NormWithActivation(nn.BatchNorm2d):
    """Like timm's `BatchNormAct2d`: a batch norm that applies its child module."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(super().forward(x))


class DoublingNorm(nn.BatchNorm2d):
    """A batch norm whose forward pass does more than its type and child modules show."""

    def forward(self, x):
        return 2 * super().forward(x)


class StandardisedConv(nn.Conv2d):
    """A convolution that is not linear in its weights: scaling them does not scale its output."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.square().sum().sqrt(), self.bias)


class Swapped(nn.Module):
    """Two convolutions and norms, registered in another order than they are applied: conv1, norm1, conv2, norm2."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.norm1 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class Shortcut(nn.Module):
    """The output of the convolution is used by the norm and by the sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x).relu()


class ChangedInPlace(nn.Module):
    """The output of the convolution is changed before the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x).relu_())


class Shared(nn.Module):
    """A convolution with a norm for each of two inputs, as in heads with norms per level."""

    def __init__(self):
        super().__init__()
        self.conv, self.norms = nn.Conv2d(3, 4, 3), nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x):
        return self.norms[0](self.conv(x)) + self.norms[1](self.conv(x.flip(-1)))


class TiedWeights(nn.Module):
    """Two convolutions share their weights, but only one has a norm. Each pair by itself can be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3)
        self.other.weight = self.conv.weight

    def forward(self, x):
        return self.norm(self.conv(x)) + self.other(x)


def fold(module):
    """Give all norms random values, fold, and return the number of norms left, after comparing the outputs."""
    torch.manual_seed(0)
    module = spread_out(module).eval()
    with torch.no_grad():
        expected = module(IMAGES)
    fold_norms_(module, lambda: [module(IMAGES)])
    other = torch.randn(1, 3, 9, 11)
    with torch.no_grad():
        assert_close(module(IMAGES), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        assert module(other).isfinite().all()
    return sum(isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d) for part in module.modules())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d, NormWithActivation])
@pytest.mark.parametrize("bias", [False, True])
def test_norm_after_a_convolution_is_folded(norm, bias):
    assert fold(nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), norm(4), nn.Conv2d(4, 4, 1), norm(4))) == 0


def test_activation_inside_a_norm_remains():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), NormWithActivation(4))
    assert fold(module) == 0
    with torch.no_grad():
        assert module(IMAGES).min() == 0


def test_folded_weights_are_those_of_a_hand_computed_example():
    """With mean 2, variance 4 - eps, weight 6 and bias 1, y = 6 (x - 2) / 2 + 1 = 3 x - 5."""
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval()
    conv, norm = module
    with torch.no_grad():
        conv.weight.fill_(0.5)
        conv.bias.fill_(1.0)
        norm.running_mean.fill_(2.0)
        norm.running_var.fill_(4.0 - norm.eps)
        norm.weight.fill_(6.0)
        norm.bias.fill_(1.0)
    fold_norms_(module, lambda: [module(IMAGES[:, :1])])
    assert_close(conv.weight.item(), 1.5)
    assert_close(conv.bias.item(), 3.0 - 5.0)
    assert isinstance(module[1], nn.Identity)


def test_norms_are_paired_in_the_order_in_which_they_are_applied():
    assert fold(Swapped()) == 0


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), DoublingNorm(4)), 1),
        (nn.Sequential(StandardisedConv(3, 4, 3), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), 1),
        (Shortcut(), 1),
        (ChangedInPlace(), 1),
        (Shared(), 2),
    ],
    ids=["norm", "conv", "before", "activation", "no statistics", "shortcut", "in place", "shared"],
)
def test_norm_that_cannot_be_folded_remains_without_a_warning(module, left, caplog):
    foldable = nn.Sequential(module, nn.Conv2d(module_channels(module), 4, 1), nn.BatchNorm2d(4))
    assert fold(foldable) == left  # and the norm after it is folded
    assert caplog.text == ""


def module_channels(module):
    with torch.no_grad():
        return module.eval()(IMAGES).shape[1]


def test_nothing_is_folded_if_the_outputs_change(caplog):
    caplog.set_level(logging.WARNING)
    module = nn.Sequential(TiedWeights(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    weight = module[0].conv.weight.detach().clone()
    assert fold(module) == 2
    assert "2 batch norms are not folded" in caplog.text
    assert torch.equal(module[0].conv.weight, weight)
