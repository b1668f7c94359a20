"""Quality-aware class losses (quality focal loss, varifocal loss): the target is the IoU of the predicted box."""

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.arguments import check_number
from retinanet.losses.fused_sigmoid import FusedSigmoidLoss
from retinanet.losses.margin import FocalMargin


class QualityFocalLoss(FusedSigmoidLoss):
    """Quality focal loss, the sum of |y - p|^beta (-y log(p) - (1 - y) log(1 - p)) (Li et al. 2020, eq. 3).

    For an anchor's own class, y is the IoU; for all other classes, it is 0. See `ClassLoss` for the call arguments.

    Args:
        beta: focusing exponent, at least 0; larger values give less weight to examples near their target. 0 gives cross
            entropy. Below 1, the loss is steep near the target.
        compile: as in `FusedSigmoidLoss`.
    """

    needs_iou = True

    def __init__(self, *, beta: float = 2.0, compile: bool = False):
        check_number("beta", beta, low=0)
        super().__init__(FocalMargin(beta), background_weight=1.0, compile=compile)
        self.beta = beta

    def target_loss(self, logits: Tensor, classes: Tensor, iou: Tensor) -> Tensor:
        return (torch.sigmoid(logits) - iou).abs().pow(self.beta) * _cross_entropy(logits, iou)

    def target_derivative(self, logits: Tensor, classes: Tensor, iou: Tensor, scale: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        error = p - iou
        distance = error.abs()
        # For beta below 1, the derivative of the power is infinite at the target. Use 0: the loss is minimal there.
        of_power = torch.where(distance > 0, self.beta * distance.pow(self.beta - 1), 0) * error.sign()
        of_factor = of_power * p * torch.sigmoid(-logits) * _cross_entropy(logits, iou)
        return scale * (of_factor + distance.pow(self.beta) * error)


class VarifocalLoss(FusedSigmoidLoss):
    """Varifocal loss: weights objects by their IoU and down-weights only easy negatives (Zhang et al. 2021, eq. 2).

    The loss of a target logit with an IoU q above 0 is q (-q log(p) - (1 - q) log(1 - p)); the loss of any other logit
    is -alpha p^gamma log(1 - p). Well-placed boxes get more weight, and easy positives are not down-weighted. See
    `ClassLoss` for the call arguments.

    Args:
        alpha: weight (at least 0) of negatives and of positives whose predicted box does not overlap the object.
        gamma: focusing exponent for the same logits.
        compile: as in `FusedSigmoidLoss`.
    """

    needs_iou = True

    def __init__(self, *, alpha: float = 0.75, gamma: float = 2.0, compile: bool = False):
        check_number("alpha", alpha, low=0)
        super().__init__(FocalMargin(gamma), background_weight=alpha, compile=compile)
        self.alpha = alpha

    def target_loss(self, logits: Tensor, classes: Tensor, iou: Tensor) -> Tensor:
        positive = iou * _cross_entropy(logits, iou)
        return torch.where(iou > 0, positive, self.alpha * self.margin_loss.value(logits))

    def target_derivative(self, logits: Tensor, classes: Tensor, iou: Tensor, scale: Tensor) -> Tensor:
        positive = iou * (torch.sigmoid(logits) - iou)
        return scale * torch.where(iou > 0, positive, self.alpha * self.margin_loss.derivative(logits))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy for targets in 0..1.

    Computed as the sum of two non-negative terms: the usual form, softplus(x) - x y, loses precision when the loss is
    small.
    """
    return targets * F.softplus(-logits) + (1 - targets) * F.softplus(logits)
