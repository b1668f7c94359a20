"""Formulas and derivatives of the focal loss, FL* and the hinge loss, as functions of the margin of one logit.

Let p_t be the predicted probability of the correct answer, and z = -log(p_t / (1 - p_t)) = -x_t the negative margin.
Each loss is a function h(z) with the derivative h'(z). For the logit x of an anchor's own class, z = -x; for the logit
x of any other class, z = x (Lin et al. 2017, appendix A).
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.arguments import check_number


class MarginLoss(Protocol):
    """An elementwise loss h of the negative margin z.

    Both methods return a new tensor with the dtype of z, float32 or float64, which is finite for any finite z.
    """

    def value(self, z: Tensor) -> Tensor:
        """Return h(z). It may use in-place operations, so autograd cannot differentiate it: use `derivative`."""

    def derivative(self, z: Tensor) -> Tensor:
        """Return h'(z)."""


class FocalMargin:
    """Focal loss, -(1 - p_t)^gamma log(p_t) (Lin et al. 2017, eq. 4); gamma 0 is cross entropy.

    h(z) = sigmoid(z)^gamma softplus(z),    h'(z) = sigmoid(z)^gamma (gamma sigmoid(-z) softplus(z) + sigmoid(z))

    Args:
        gamma: focusing exponent, at least 0; larger values down-weight well-classified examples more.
    """

    def __init__(self, gamma: float):
        check_number("gamma", gamma, low=0)
        self.gamma = gamma

    def value(self, z: Tensor) -> Tensor:
        # Use sigmoid(z), never 1 - sigmoid(-z): the subtraction would lose the precision of a small error.
        return torch.sigmoid(z).pow_(self.gamma).mul_(F.softplus(z))

    def derivative(self, z: Tensor) -> Tensor:
        error = torch.sigmoid(z)
        result = F.softplus(z).mul_(self.gamma)
        # Rounding in `1 - error` is harmless here, because `error` is added to the product.
        result.addcmul_(result, error, value=-1).add_(error)
        return result.mul_(error.pow_(self.gamma))


class FocalStarMargin:
    """FL*, a steeper, shifted cross entropy: -log(sigmoid(gamma x_t + beta)) / gamma (Lin et al. 2017, appendix A).

    h(z) = softplus(gamma z - beta) / gamma,    h'(z) = sigmoid(gamma z - beta)

    Args:
        gamma: steepness, above 0; gamma 1 with beta 0 gives cross entropy.
        beta: shift; with larger values, an example stops contributing at a lower probability of its true class.
    """

    def __init__(self, gamma: float, beta: float):
        check_number("gamma", gamma, low=0, above=True)
        check_number("beta", beta)
        self.gamma = gamma
        self.beta = beta

    def value(self, z: Tensor) -> Tensor:
        return F.softplus(z * self.gamma - self.beta).div_(self.gamma)

    def derivative(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z * self.gamma - self.beta)


class HingeMargin:
    """Hinge loss on the probability, max(0, margin - p_t) (Lin et al. 2017, section 5.1).

    The paper does not state its margin, and reports that no setting trained well: the gradient of a completely wrong
    example is almost zero. Infinite logits give a finite value and derivative, so only NaN logits are detected.

    h(z) = max(0, margin - 1 + sigmoid(z)),    h'(z) = sigmoid(z) sigmoid(-z) where h(z) > 0

    Args:
        margin: probability of the correct answer at which the loss reaches zero, 0..1; with 0.5, that is where the
            correct answer becomes the more likely one.
    """

    def __init__(self, margin: float = 0.5):
        check_number("margin", margin, low=0, high=1)
        self.margin = margin

    def value(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z).add_(self.margin - 1).relu_()

    def derivative(self, z: Tensor) -> Tensor:
        error = torch.sigmoid(z)
        return torch.where(error > 1 - self.margin, error * torch.sigmoid(-z), error * 0)
