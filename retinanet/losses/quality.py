"""Class losses whose score is to say how well the box fits, too: an object's target is the IoU of its predicted box."""

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.focal import Focal
from retinanet.losses.fused_sigmoid import SigmoidSum


class QualityLoss(SigmoidSum):
    """A class loss that takes the quality of each anchor's predicted box as the target of its own class."""

    def __call__(self, logits: Tensor, labels: Tensor, counted: Tensor, quality: Tensor) -> Tensor:
        """See `SigmoidSum.sum`; quality is in 0..1, gets no gradient, and is looked at where an anchor has a class."""
        return self.sum(logits, labels, counted, quality)


class QualityFocal(QualityLoss):
    """Sum of |y - p|^beta (-y log(p) - (1 - y) log(1 - p)), y the quality or, for other classes, 0 (Li et al. 2020).

    Args:
        beta: how fast examples near their target lose their weight; 0 is cross entropy. Below 1 the slope is steep near
            the target.
        compile: as in `SigmoidSum`.
    """

    def __init__(self, *, beta: float = 2.0, compile: bool = False):
        super().__init__(Focal(beta), background=1.0, compile=compile)
        self.beta = beta

    def own_loss(self, own: Tensor, column: Tensor, quality: Tensor) -> Tensor:
        return (torch.sigmoid(own) - quality).abs().pow(self.beta) * _cross_entropy(own, quality)

    def own_slope(self, own: Tensor, column: Tensor, quality: Tensor, scale: Tensor) -> Tensor:
        p = torch.sigmoid(own)
        error = p - quality
        distance = error.abs()
        # The power's own slope is infinite at the target for a beta below 1, and there it is met.
        power_slope = torch.where(distance > 0, self.beta * distance.pow(self.beta - 1), 0) * error.sign()
        slope = power_slope * p * torch.sigmoid(-own) * _cross_entropy(own, quality)
        return scale * (slope + distance.pow(self.beta) * error)


class Varifocal(QualityLoss):
    """Sum of q (-q log(p) - (1 - q) log(1 - p)) where an object has a quality q over 0, of -alpha p^gamma log(1 - p)
    elsewhere (Zhang et al. 2021): well-placed boxes weigh more, and no positive loses its weight for being easy.

    Args:
        alpha: weight of what is no object, and of objects whose box misses them.
        gamma: how fast easy ones of these lose their weight.
        compile: as in `SigmoidSum`.
    """

    def __init__(self, *, alpha: float = 0.75, gamma: float = 2.0, compile: bool = False):
        super().__init__(Focal(gamma), background=alpha, compile=compile)
        self.alpha = alpha

    def own_loss(self, own: Tensor, column: Tensor, quality: Tensor) -> Tensor:
        found = quality * _cross_entropy(own, quality)
        return torch.where(quality > 0, found, self.alpha * self.curve.loss(own))

    def own_slope(self, own: Tensor, column: Tensor, quality: Tensor, scale: Tensor) -> Tensor:
        found = quality * (torch.sigmoid(own) - quality)
        return scale * torch.where(quality > 0, found, self.alpha * self.curve.slope(own))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """With targets in 0..1. Two terms over 0: the usual form, softplus(x) - x y, loses the digits of a small one."""
    return targets * F.softplus(-logits) + (1 - targets) * F.softplus(logits)
