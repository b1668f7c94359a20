"""Softmax focal loss as a stand-alone module for any classifier; the detector does not use it.

The detector's focal losses are `SigmoidFocalLoss` (`sigmoid.py`) and `SoftmaxFocalLoss` (`softmax_focal.py`).
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from retinanet.losses.arguments import check_number
from retinanet.losses.softmax_focal import softmax_focal_losses

Reduction = Literal["mean", "sum", "none"]
INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class FocalLoss(nn.Module):
    """Focal loss of a softmax classifier, -alpha_c (1 - p_c)^gamma log(p_c) for the true class c.

    This is Lin et al. 2017, eq. 5, for mutually exclusive classes. With gamma 0 and no alpha, it equals
    `torch.nn.functional.cross_entropy`; with two classes, it equals the sigmoid focal loss of the difference between
    the logits.

    Args:
        num_classes: C, at least 2: the softmax of a single logit is always 1.
        alpha: non-negative class weights (C,), or one number for all classes; None means 1. Stored as a buffer, which
            moves with the module. A float tensor keeps its dtype; anything else is converted to torch's default dtype.
        gamma: non-negative focusing exponent; larger values down-weight well-classified examples more.
        reduction: "mean" divides the sum by the number of targets, not by their weights, and is 0 without targets;
            "sum" returns the sum; "none" returns one loss per target.

    Raises:
        ValueError: an argument is invalid.
    """

    num_classes: int
    alpha: Tensor | None
    gamma: float
    reduction: Reduction

    def __init__(
        self,
        num_classes: int,
        alpha: float | Sequence[float] | np.ndarray | Tensor | None = None,
        gamma: float = 2.0,
        reduction: Reduction = "mean",
    ):
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 2:
            raise ValueError(
                f"num_classes: found {num_classes!r}, expected an integer of at least 2; for a problem with a single "
                "logit, use 2 and the logits (0, x)"
            )
        check_number("gamma", gamma, low=0)
        if reduction not in get_args(Reduction):
            choices = ", ".join(map(repr, get_args(Reduction)))
            raise ValueError(f"reduction: found {reduction!r}, expected one of {choices}")
        self.num_classes = int(num_classes)
        self.gamma = float(gamma)
        self.reduction = reduction
        self.register_buffer("alpha", None if alpha is None else _weight_tensor(alpha, self.num_classes))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss. It can be differentiated once with respect to the logits; twice raises a `RuntimeError`.

        Args:
            logits: (N, C) or (N, C, d1, ...), any float type. Computed in float32, or float64 for float64 logits.
            targets: (N,) or (N, d1, ...), integers in 0..C-1.

        Returns: (), or the shape of the targets for reduction "none"; float32, or float64 for float64 logits. The
            gradient has the dtype of the logits.

        Raises:
            ValueError: a shape or dtype is wrong, or a target on the CPU is out of range. On other devices, the range
                check would require a synchronisation; as with torch's own losses, the device reports the error at the
                next synchronisation.
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
        weights = "None" if self.alpha is None else f"({self.num_classes},)"
        return f"{self.num_classes}, alpha={weights}, gamma={self.gamma}, reduction={self.reduction!r}"

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        for name, value in (("logits", logits), ("targets", targets)):
            if not isinstance(value, Tensor):
                raise ValueError(f"{name}: found {type(value).__name__}, expected a torch.Tensor")
        if logits.ndim < 2 or logits.shape[1] != self.num_classes:
            expected = f"(N, {self.num_classes}) or (N, {self.num_classes}, d1, ...)"
            raise ValueError(f"logits: found shape {tuple(logits.shape)}, expected {expected}")
        if not logits.is_floating_point():
            raise ValueError(f"logits: found {logits.dtype}, expected a float type")
        if targets.dtype not in INTEGER_TYPES:
            expected = ", ".join(map(str, INTEGER_TYPES))
            raise ValueError(f"targets: found {targets.dtype}, expected class indices as one of {expected}")
        shape = (logits.shape[0], *logits.shape[2:])
        if tuple(targets.shape) != shape:
            raise ValueError(
                f"targets: found shape {tuple(targets.shape)}, expected {shape} for logits of shape "
                f"{tuple(logits.shape)}"
            )
        if targets.device.type == "cpu" and targets.numel():
            low, high = (value.item() for value in targets.aminmax())
            if low < 0 or high >= self.num_classes:
                raise ValueError(f"targets: found values in {low}..{high}, expected 0..{self.num_classes - 1}")


def _weight_tensor(alpha: float | Sequence[float] | np.ndarray | Tensor, num_classes: int) -> Tensor:
    """Copy weights to a tensor (C,). A float tensor keeps its dtype; anything else gets torch's default dtype.

    Raises:
        ValueError: the number of weights is wrong, or a weight is negative or not finite.
    """
    try:
        weights = torch.as_tensor(alpha).detach()
    except (TypeError, ValueError, RuntimeError):  # torch's errors for text, ragged rows and None
        weights = None
    if weights is None or weights.is_complex():
        raise ValueError(f"alpha: found {alpha!r}, expected a number or one weight for each of {num_classes} classes")
    # Do not keep the dtype of a float64 array: some devices do not support float64.
    keeps_type = isinstance(alpha, Tensor) and weights.is_floating_point()
    weights = weights.to(weights.dtype if keeps_type else torch.get_default_dtype(), copy=True)
    if weights.ndim == 0:
        weights = weights.repeat(num_classes)
    if weights.shape != (num_classes,):
        raise ValueError(
            f"alpha: found shape {tuple(weights.shape)}, expected one weight for each of {num_classes} classes"
        )
    if not ((weights >= 0) & weights.isfinite()).all():
        raise ValueError(f"alpha: found {weights.tolist()}, expected finite weights of at least 0")
    return weights
