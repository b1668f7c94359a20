"""The focal loss (Lin et al. 2017), and the curves that its paper holds against it.

All are losses of p_t, the probability of what is true: of z = -log(p_t / (1 - p_t)), they are h(z) with a slope h'(z).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.fused_sigmoid import SigmoidLoss


class Focal:
    """-(1 - p_t)^gamma log(p_t) (eq. 4); gamma 0 is cross entropy.

    h(z) = sigmoid(z)^gamma softplus(z),    h'(z) = sigmoid(z)^gamma (gamma sigmoid(-z) softplus(z) + sigmoid(z))

    Args:
        gamma: how fast well-classified examples lose their weight.
    """

    def __init__(self, gamma: float):
        self.gamma = gamma

    def loss(self, z: Tensor) -> Tensor:
        # Of a sigmoid, never of one minus it: that would have lost the digits of a small error.
        return torch.sigmoid(z).pow_(self.gamma).mul_(F.softplus(z))

    def slope(self, z: Tensor) -> Tensor:
        error = torch.sigmoid(z)
        slope = F.softplus(z).mul_(self.gamma)
        slope.addcmul_(slope, error, value=-1).add_(error)  # one minus the error is harmless here: it is added to it
        return slope.mul_(error.pow_(self.gamma))


class FocalStar:
    """FL*, -log(sigmoid(gamma x_t + beta)) / gamma with x_t = -z (appendix A): cross entropy, steeper and shifted.

    h(z) = softplus(gamma z - beta) / gamma,    h'(z) = sigmoid(gamma z - beta)

    Args:
        gamma: over 0, how steep; 1 with beta 0 is cross entropy.
        beta: how far beyond even odds an example still counts.
    """

    def __init__(self, gamma: float, beta: float):
        self.gamma = gamma
        self.beta = beta

    def loss(self, z: Tensor) -> Tensor:
        return F.softplus(z * self.gamma - self.beta).div_(self.gamma)

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z * self.gamma - self.beta)


class Hinge:
    """max(0, margin - p_t) (section 5.1), nothing where the truth is likelier than the margin.

    The paper gives no margin, and found no setting that trained well: an example that is as wrong as can be hardly has
    a slope. Of an infinite logit neither value nor slope is infinite, so only one that is not a number shows.

    h(z) = max(0, margin - 1 + sigmoid(z)),    h'(z) = sigmoid(z) sigmoid(-z) where that is over 0

    Args:
        margin: in 0..1; 0.5 is where the truth becomes likelier than not.
    """

    def __init__(self, margin: float = 0.5):
        self.margin = margin

    def loss(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z).add_(self.margin - 1).relu_()

    def slope(self, z: Tensor) -> Tensor:
        error = torch.sigmoid(z)
        return torch.where(error > 1 - self.margin, error * torch.sigmoid(-z), error * 0)


class SigmoidFocal(SigmoidLoss):
    """Sum of -alpha_t (1 - p_t)^gamma log(p_t) (eq. 5) over the anchors that count and all classes.

    Args:
        alpha: weight of an anchor's own class, where every other class weighs 1 - alpha; one a class, or None for 1.
        gamma: how fast well-classified examples lose their weight; 0 is balanced cross entropy.
        compile: compile its kernels, as `SigmoidSum` says.
    """

    def __init__(self, *, alpha: float | Sequence[float] | None = 0.25, gamma: float = 2.0, compile: bool = False):
        super().__init__(Focal(gamma), alpha=alpha, compile=compile)
