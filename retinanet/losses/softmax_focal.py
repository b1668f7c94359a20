"""Softmax focal loss, -(1 - p_c)^gamma log(p_c) for the true class c: the kernel, and the detector's class loss.

Let z = logsumexp(other logits) - target logit. Then p_c = sigmoid(-z), and the loss is h(z) of `FocalMargin`. Its
gradient is -h'(z) for the target logit, and h'(z) times their softmax for the other logits. Errors far below the
precision of p_c therefore still count, and 1 - p_c is never rounded to 0, where the derivative of the power is infinite
for gamma < 1.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from retinanet.losses.arguments import check_alpha, check_number
from retinanet.losses.chunking import rows_at_once, working_type
from retinanet.losses.class_loss import check_anchors
from retinanet.losses.class_weights import ClassWeights
from retinanet.losses.differentiable_once import differentiable_once
from retinanet.losses.margin import FocalMargin


class SoftmaxFocalLoss:
    """Focal loss for a head with a background logit, summed over the valid anchors (see `ClassLoss`).

    Background is a class like any other: each anchor contributes one term, whereas sigmoid losses have one per class.

    Args:
        alpha: weight of anchors by class, 0..1: K values, one number for all classes, or None for 1. The weight of
            background is 1 minus their mean (with one number, the balance of Lin et al. 2017, eq. 5), or 1 for None.
        gamma: focusing exponent, at least 0; 0 gives (balanced) cross entropy.

    Raises:
        ValueError: alpha is outside 0..1, or gamma is negative.
    """

    needs_iou = False
    has_background_logit = True

    def __init__(self, *, alpha: float | Sequence[float] | None = None, gamma: float = 2.0):
        check_alpha(alpha)
        check_number("gamma", gamma, low=0)
        if alpha is None:
            class_weights, self.background_weight = 1.0, 1.0
        elif isinstance(alpha, Sequence):
            class_weights, self.background_weight = alpha, 1 - sum(alpha) / len(alpha)
        else:
            class_weights, self.background_weight = alpha, 1 - alpha
        self.class_weights = ClassWeights(class_weights)
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None = None) -> Tensor:
        """Compute the summed loss; arguments, result and errors are as in `ClassLoss`."""
        check_anchors(logits, labels, valid)
        num_classes = logits.shape[-1] - 1
        if num_classes < 1:
            raise ValueError(
                f"logits: found shape {tuple(logits.shape)}, expected (..., K + 1): one logit per class, and the last "
                "for background"
            )
        self.class_weights.check(num_classes)
        labels = labels.flatten()
        losses = softmax_focal_losses(logits.flatten(0, -2), labels, gamma=self.gamma)
        of_class = losses * self.class_weights.at(labels.clamp(max=num_classes - 1), losses)
        weighted = torch.where(labels == num_classes, losses * self.background_weight, of_class)
        return torch.where(valid.flatten(), weighted, 0).sum()


def softmax_focal_losses(logits: Tensor, targets: Tensor, *, gamma: float) -> Tensor:
    """Compute (1 - p_c)^gamma (-log p_c) per row: (R, C), (R,) int64 -> (R,).

    The result is float32, or float64 for float64 logits.
    """
    return _SoftmaxFocalLosses.apply(logits, targets, gamma)


class _SoftmaxFocalLosses(torch.autograd.Function):
    """Saves only the logits and vectors; the gradient is the only tensor it allocates that is as large."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
        z = negative_margins(logits, targets)
        ctx.save_for_backward(logits, targets, z)
        ctx.gamma = gamma
        return FocalMargin(gamma).value(z)

    @staticmethod
    @differentiable_once
    def backward(ctx: FunctionCtx, scale: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, z = ctx.saved_tensors
        return softmax_focal_gradient(scale, logits, targets, z, gamma=ctx.gamma), None, None


def negative_margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute z = -log(p_c / (1 - p_c)) per row, in the dtype of the loss: (R, C), (R,) int64 -> (R,)."""
    margins = []
    for rows, column in _chunks(logits, targets[:, None]):
        margins.append(other_logits(rows, column).logsumexp(dim=1) - rows.gather(1, column).squeeze(1))
    return torch.cat(margins)


def softmax_focal_gradient(scale: Tensor, logits: Tensor, targets: Tensor, z: Tensor, *, gamma: float) -> Tensor:
    """Compute the gradient of the losses per row, times a scale (R,), given `negative_margins` z (R,): (R, C)."""
    derivatives = (scale * FocalMargin(gamma).derivative(z))[:, None]
    gradient = torch.empty_like(logits)
    for rows, column, derivative, out in _chunks(logits, targets[:, None], derivatives, gradient):
        shares = other_logits(rows, column).softmax(dim=1)
        out.copy_(shares.mul_(derivative).scatter_(1, column, -derivative))
    return gradient


def other_logits(logits: Tensor, column: Tensor) -> Tensor:
    """Logits (r, C) in the dtype of the loss, with each row's target at `column` (r, 1) set too low to contribute."""
    working = logits.to(working_type(logits))
    # Not -infinity: if the other logits are -infinity too, their softmax would be NaN.
    return working.scatter(1, column, torch.finfo(working.dtype).min)


def _chunks(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split logits (R, C), and other tensors with R rows, into matching chunks of rows."""
    rows = rows_at_once(logits)
    return zip(*(values.split(rows) for values in (logits, *others)), strict=True)
