"""The focal loss of a softmax, -alpha_c (1 - p_c)^gamma log(p_c), as a module for any classifier and as a class loss.

With z = logsumexp of the other logits - own logit, p_c = sigmoid(-z): of z, this is the focal loss h of a sigmoid. The
gradient is -h'(z) for the own logit, and h'(z) shared among the others as by a softmax of them alone. So an error far
below the precision of p_c counts, and no power of a rounded 1 - p_c is taken, whose slope is infinite for gamma < 1.
"""

import math
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from retinanet.losses.focal import Focal
from retinanet.losses.fused_sigmoid import LOGITS_AT_ONCE, LOGITS_AT_ONCE_ELSEWHERE, Weights, check_anchors

Reduction = Literal["mean", "sum", "none"]
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class SoftmaxFocalLoss(nn.Module):
    """-alpha_c (1 - p_c)^gamma log(p_c) of the true class c, p the softmax of a classifier's logits.

    It is Lin et al. 2017, eq. 5, for one of several classes. With gamma 0 and no alpha it is
    `torch.nn.functional.cross_entropy`; with two classes, the focal loss of a sigmoid on the difference of the logits.

    Args:
        num_classes: C, 1 or more.
        alpha: weight of each class, (C,), not negative; a number for one and the same; None for 1. It is kept as a
            buffer, which moves with the module: a float tensor in its type, anything else in torch's default one.
        gamma: not negative: how fast well-classified examples lose their weight.
        reduction: "mean" divides the sum by the number of targets, whatever their weights, and is 0 where there are
            none; "sum"; "none" gives a loss for each target.

    Raises:
        ValueError: an argument is something else.
    """

    alpha: Tensor | None

    def __init__(
        self,
        num_classes: int,
        alpha: float | Sequence[float] | np.ndarray | Tensor | None = None,
        gamma: float = 2.0,
        reduction: Reduction = "mean",
    ):
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 1:
            raise ValueError(f"num_classes is {num_classes!r}, expected a whole number from 1 upwards")
        if isinstance(gamma, bool) or not isinstance(gamma, Real) or not 0 <= gamma < math.inf:
            raise ValueError(f"gamma is {gamma!r}, expected a number from 0 upwards")
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction is {reduction!r}, expected one of {', '.join(map(repr, get_args(Reduction)))}")
        self.num_classes = int(num_classes)
        self.gamma = float(gamma)
        self.reduction = reduction
        self.register_buffer("alpha", None if alpha is None else weight_tensor(alpha, self.num_classes))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, differentiable once in the logits.

        Args:
            logits: (N, C) or (N, C, d1, ...), any float type. Arithmetic is float32, float64 for float64.
            targets: (N,) or (N, d1, ...), integers, 0..C-1.

        Returns: float32, float64 for float64 logits: (), or with reduction "none" the shape of the targets. The
        gradient has the type of the logits.

        Raises:
            ValueError: shapes or types do not fit; a target on the CPU is out of range. For one on another device that
                would be a wait: there it is an error of the device, as with torch's own losses, which shows when the
                host next waits for it.
        """
        self._check(logits, targets)
        rows, index = logits.movedim(1, -1).reshape(-1, self.num_classes), targets.reshape(-1).long()
        losses = softmax_focal_losses(rows, index, gamma=self.gamma)
        if self.alpha is not None:
            losses = losses * self.alpha.to(losses.dtype)[index]
        if self.reduction == "none":
            return losses.view(targets.shape)
        return losses.sum() / (max(1, len(losses)) if self.reduction == "mean" else 1)

    def extra_repr(self) -> str:
        weighted = "None" if self.alpha is None else f"({self.num_classes},)"
        return f"{self.num_classes}, alpha={weighted}, gamma={self.gamma}, reduction={self.reduction!r}"

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        for name, value in (("logits", logits), ("targets", targets)):
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} are {type(value).__name__}, expected a torch.Tensor")
        if logits.ndim < 2 or logits.shape[1] != self.num_classes:
            wanted = f"(N, {self.num_classes}) or (N, {self.num_classes}, d1, ...)"
            raise ValueError(f"logits have the shape {tuple(logits.shape)}, expected {wanted}")
        if not logits.is_floating_point():
            raise ValueError(f"logits are {logits.dtype}, expected a float type")
        if targets.dtype not in INTEGERS:
            wanted = ", ".join(map(str, INTEGERS))
            raise ValueError(f"targets are {targets.dtype}, expected the index of each class as one of {wanted}")
        wanted = (logits.shape[0], *logits.shape[2:])
        if targets.shape != wanted:
            raise ValueError(
                f"targets have the shape {tuple(targets.shape)}, expected {wanted} for logits {tuple(logits.shape)}"
            )
        if targets.device.type == "cpu" and targets.numel():
            low, high = (value.item() for value in targets.aminmax())
            if low < 0 or high >= self.num_classes:
                raise ValueError(f"targets are in {low}..{high}, expected 0..{self.num_classes - 1}")


class SoftmaxFocal:
    """The class loss of a head with a logit for each class and a last one for background: `SoftmaxFocalLoss`, summed.

    Background is a class like the others, so an anchor has one term, where with sigmoids it has one for each class.

    Args:
        alpha: weight of each class, K of them in 0..1; a number for one and the same; None for 1, also of background.
            Background weighs one minus the mean of them: with a number, the balance of eq. 5.
        gamma: how fast well-classified examples lose their weight; 0 is (balanced) cross entropy.
    """

    def __init__(self, *, alpha: float | Sequence[float] | None = None, gamma: float = 2.0):
        if alpha is None:
            own, self.background = 1.0, 1.0
        elif isinstance(alpha, Sequence):
            own, self.background = alpha, 1 - sum(alpha) / len(alpha)
        else:
            own, self.background = alpha, 1 - alpha
        self.own = Weights(own)
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """The sum, () in float32 (float64 for float64 logits), differentiable in the logits.

        Args:
            logits: (..., K + 1), any float type.
            labels: (...) int64, 0..K-1, or K for background.
            counted: (...) bool, False for an anchor that takes no part.

        Raises:
            ValueError: labels or `counted` are not those of the logits' anchors, or the weights not those of K classes.
        """
        check_anchors(logits, labels, counted)
        num_classes = logits.shape[-1] - 1
        self.own.check(num_classes)
        labels = labels.flatten()
        losses = softmax_focal_losses(logits.flatten(0, -2), labels, gamma=self.gamma)
        own = losses * self.own.at(labels.clamp(max=num_classes - 1), losses)
        weighted = torch.where(labels == num_classes, losses * self.background, own)
        return torch.where(counted.flatten(), weighted, 0).sum()


def softmax_focal_losses(logits: Tensor, targets: Tensor, *, gamma: float) -> Tensor:
    """(1 - p_c)^gamma (-log p_c) of each row: (R, C), (R,) int64 -> (R,) in float32, float64 for float64."""
    return _SoftmaxFocalLosses.apply(logits, targets, gamma)


def weight_tensor(alpha: float | Sequence[float] | np.ndarray | Tensor, num_classes: int) -> Tensor:
    """(C,), a copy of the weights: of a float tensor in its type, else in torch's default one.

    Raises:
        ValueError: not a weight for each class, or one that is negative or not finite.
    """
    try:
        weights = torch.as_tensor(alpha).detach()
    except (TypeError, ValueError, RuntimeError):  # whatever torch says of text, of rows of several lengths, of None
        weights = None
    if weights is None or weights.is_complex():
        raise ValueError(f"alpha is {alpha!r}, expected a number, or a weight for each of {num_classes} classes")
    # An array of float64 says nothing about wanting it: there are devices that have none.
    keeps_type = isinstance(alpha, Tensor) and weights.is_floating_point()
    weights = weights.to(weights.dtype if keeps_type else torch.get_default_dtype(), copy=True)
    if weights.ndim == 0:
        weights = weights.repeat(num_classes)
    if weights.shape != (num_classes,):
        raise ValueError(
            f"alpha has the shape {tuple(weights.shape)}, expected a weight for each of {num_classes} classes"
        )
    if not ((weights >= 0) & weights.isfinite()).all():
        raise ValueError(f"alpha is {weights.tolist()}, expected weights from 0 upwards")
    return weights


class _SoftmaxFocalLosses(torch.autograd.Function):
    """By hand: nothing of the size of the logits is kept but the logits, and nothing made whole but their gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
        margins = []
        for rows, own in _chunks(logits, targets[:, None]):
            margins.append(_others(rows, own).logsumexp(dim=1) - rows.gather(1, own).squeeze(1))
        z = torch.cat(margins)
        ctx.save_for_backward(logits, targets, z)
        ctx.gamma = gamma
        return Focal(gamma).loss(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, z = ctx.saved_tensors
        slopes = (scale * Focal(ctx.gamma).slope(z))[:, None]
        gradient = torch.empty_like(logits)
        for rows, own, slope, out in _chunks(logits, targets[:, None], slopes, gradient):
            out.copy_(_others(rows, own).softmax(dim=1).mul_(slope).scatter_(1, own, -slope))
        return gradient, None, None


def _others(logits: Tensor, own: Tensor) -> Tensor:
    """Logits (r, C) in float32 (float64), the own one of each row (r, 1) so low that it counts for nothing."""
    working = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Not infinity: with one class there are no others, and infinity minus itself is no number.
    return working.scatter(1, own, torch.finfo(working.dtype).min)


def _chunks(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each at once, of as many logits as are looked at together."""
    most = LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE)
    rows = max(1, most // logits.shape[1])
    return zip(*(values.split(rows) for values in (logits, *others)), strict=True)
