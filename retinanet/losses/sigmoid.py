"""Class losses with one sigmoid per class and hard targets, such as the focal loss of the paper.

The formulas are in `margin.py`, the kernel in `fused_sigmoid.py`, and its readable reference in `sigmoid_reference.py`.
Losses with an IoU as target are in `quality.py`.
"""

from collections.abc import Sequence

from torch import Tensor

from retinanet.losses.arguments import check_alpha
from retinanet.losses.class_weights import ClassWeights
from retinanet.losses.fused_sigmoid import FusedSigmoidLoss
from retinanet.losses.margin import FocalMargin, MarginLoss


class SigmoidMarginLoss(FusedSigmoidLoss):
    """Sum of alpha_t h(z) over the classes of all valid anchors, for a margin loss h (see `ClassLoss`).

    Args:
        margin_loss: h.
        alpha: weight of an anchor's target logit, 0..1; the logits of its other classes have weight 1 - alpha. If there
            is one alpha per class, each applies to all logits of that class. With None, every logit has weight 1.
        compile: as in `FusedSigmoidLoss`.

    Raises:
        ValueError: alpha is outside 0..1. Unlike in torchvision, -1 does not mean None.
    """

    def __init__(self, margin_loss: MarginLoss, *, alpha: float | Sequence[float] | None = None, compile: bool = False):
        check_alpha(alpha)
        if alpha is None:
            target_weight, background_weight = 1.0, 1.0
        elif isinstance(alpha, Sequence):
            target_weight, background_weight = alpha, [1 - value for value in alpha]
        else:
            target_weight, background_weight = alpha, 1 - alpha
        super().__init__(margin_loss, background_weight=background_weight, compile=compile)
        self.target_weight = ClassWeights(target_weight)

    def target_loss(self, logits: Tensor, classes: Tensor, iou: Tensor | None) -> Tensor:
        return self.target_weight.at(classes, logits) * self.margin_loss.value(-logits)

    def target_derivative(self, logits: Tensor, classes: Tensor, iou: Tensor | None, scale: Tensor) -> Tensor:
        return -self.target_weight.at(classes, logits) * scale * self.margin_loss.derivative(-logits)


class SigmoidFocalLoss(SigmoidMarginLoss):
    """Focal loss, the sum of -alpha_t (1 - p_t)^gamma log(p_t) over the classes of all valid anchors.

    Lin et al. 2017, eq. 5.

    Args:
        alpha: as in `SigmoidMarginLoss`.
        gamma: focusing exponent; 0 gives balanced cross entropy.
        compile: as in `FusedSigmoidLoss`.
    """

    def __init__(self, *, alpha: float | Sequence[float] | None = 0.25, gamma: float = 2.0, compile: bool = False):
        super().__init__(FocalMargin(gamma), alpha=alpha, compile=compile)
