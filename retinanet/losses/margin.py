"""Formula and derivative of the focal loss, FL* and the hinge loss, as functions of the margin of one logit.

With p_t the probability given to the correct answer and z = -log(p_t / (1 - p_t)) = -x_t the negative margin, each is a
function h(z) with the derivative h'(z). For the logit x of an anchor's own class z = -x, for that of another class
z = x (Lin et al. 2017, appendix A).
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class MarginLoss(Protocol):
    """An elementwise loss h of the negative margin z.

    Both methods return a new tensor of the type of z, float32 or float64, and are finite for any finite z.
    """

    def value(self, z: Tensor) -> Tensor:
        """Return h(z). Works in place where it can, so autograd cannot differentiate it: use `derivative`."""

    def derivative(self, z: Tensor) -> Tensor:
        """Return h'(z)."""


class FocalMargin:
    """Focal loss, -(1 - p_t)^gamma log(p_t) (Lin et al. 2017, eq. 4); gamma 0 is cross entropy.

    h(z) = sigmoid(z)^gamma softplus(z),    h'(z) = sigmoid(z)^gamma (gamma sigmoid(-z) softplus(z) + sigmoid(z))

    Args:
        gamma: focusing exponent; larger values down-weight well-classified examples more.
    """

    def __init__(self, gamma: float):
        self.gamma = gamma

    def value(self, z: Tensor) -> Tensor:
        # sigmoid(z), never 1 - sigmoid(-z): the subtraction would lose the digits of a small error.
        return torch.sigmoid(z).pow_(self.gamma).mul_(F.softplus(z))

    def derivative(self, z: Tensor) -> Tensor:
        error = torch.sigmoid(z)
        result = F.softplus(z).mul_(self.gamma)
        result.addcmul_(result, error, value=-1).add_(error)  # 1 - error is harmless here: error is added to it
        return result.mul_(error.pow_(self.gamma))


class FocalStarMargin:
    """FL*, -log(sigmoid(gamma x_t + beta)) / gamma (Lin et al. 2017, appendix A): steeper, shifted cross entropy.

    h(z) = softplus(gamma z - beta) / gamma,    h'(z) = sigmoid(gamma z - beta)

    Args:
        gamma: steepness, above 0; 1 with beta 0 is cross entropy.
        beta: shift; larger values make an example stop contributing at a lower probability of its true class.
    """

    def __init__(self, gamma: float, beta: float):
        self.gamma = gamma
        self.beta = beta

    def value(self, z: Tensor) -> Tensor:
        return F.softplus(z * self.gamma - self.beta).div_(self.gamma)

    def derivative(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z * self.gamma - self.beta)


class HingeMargin:
    """Hinge loss on the probability, max(0, margin - p_t) (Lin et al. 2017, section 5.1).

    The paper gives no margin and found no setting that trained well: the gradient of a completely wrong example is
    almost zero. Infinite logits give a finite value and derivative, so only NaN logits are noticed.

    h(z) = max(0, margin - 1 + sigmoid(z)),    h'(z) = sigmoid(z) sigmoid(-z) where h(z) > 0

    Args:
        margin: probability from which an example costs nothing, 0..1; 0.5 is where the correct answer becomes the more
            likely one.
    """

    def __init__(self, margin: float = 0.5):
        self.margin = margin

    def value(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z).add_(self.margin - 1).relu_()

    def derivative(self, z: Tensor) -> Tensor:
        error = torch.sigmoid(z)
        return torch.where(error > 1 - self.margin, error * torch.sigmoid(-z), error * 0)
