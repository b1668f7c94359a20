"""Fused kernel for class losses with one sigmoid per class: one pass over the logits for the value, and one for the
gradient.

It computes the same loss as `sigmoid_reference.py`. An anchor has at most one class, so the kernel first treats every
logit as background, then replaces the result for the one logit of the anchor's class. It builds no one-hot target,
selects no anchors, and saves no additional tensor as large as the logits for the backward pass. The target's loss is
replaced before summation, because the logit of an easy object, treated as background, has a very large loss;
subtracting it from the sum afterwards would leave a rounding error.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from retinanet.losses.chunking import rows_at_once, working_type
from retinanet.losses.class_loss import check_anchors
from retinanet.losses.class_weights import ClassWeights
from retinanet.losses.differentiable_once import differentiable_once
from retinanet.losses.margin import MarginLoss

HALF_TYPES = (torch.bfloat16, torch.float16)


class FusedSigmoidLoss(ABC):
    """Base class of the class losses with one sigmoid per class (see `ClassLoss`); subclasses define the target term.

    The loss of an anchor is `target_loss` for the logit of its class (absent for background) plus a weighted margin
    loss for each of its other logits.

    A NaN logit makes the sum or the gradient NaN, even if its anchor is not valid. An infinite logit may not, because
    it is treated as a very confident prediction.

    Args:
        margin_loss: loss for the logits of all classes except the anchor's own.
        background_weight: weight of that loss, as one number or one per class.
        compile: compile one kernel for the value and one for the gradient. Faster on an accelerator (not measured); on
            a CPU, eager execution is faster (see benchmarks/results).
    """

    needs_iou = False
    has_background_logit = False

    def __init__(self, margin_loss: MarginLoss, *, background_weight: float | Sequence[float], compile: bool = False):
        self.margin_loss = margin_loss
        self.background_weight = ClassWeights(background_weight)
        self.compile = compile
        self.sum_of_losses = torch.compile(_sum_of_losses, dynamic=True) if compile else _sum_of_losses
        self.scaled_derivatives = torch.compile(_scaled_derivatives, dynamic=True) if compile else _scaled_derivatives
        self._tables: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def target_loss(self, logits: Tensor, classes: Tensor, iou: Tensor | None) -> Tensor:
        """Return the weighted loss (R, 1) of target logits (R, 1), given their classes (R, 1) and IoU (R, 1)."""

    @abstractmethod
    def target_derivative(self, logits: Tensor, classes: Tensor, iou: Tensor | None, scale: Tensor) -> Tensor:
        """Return the derivative of `target_loss` with respect to the logits, times a scale ()."""

    def __call__(self, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None = None) -> Tensor:
        """Compute the summed loss; arguments, result and errors are as in `ClassLoss`.

        The gradient is multiplied by the incoming gradient first, then rounded to the dtype of the logits.
        """
        check_anchors(logits, labels, valid)
        self.background_weight.check(logits.shape[-1])
        if self.needs_iou:
            if iou is None:
                raise ValueError(f"{type(self).__name__} needs the IoU of each anchor's decoded box; pass iou")
            iou = iou.flatten()[:, None].to(working_type(logits))
        return _FusedSigmoidSum.apply(logits.flatten(0, -2), labels.flatten(), valid.flatten(), iou, self)

    def value(self, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None = None) -> Tensor:
        """Compute the summed loss without recording it for autograd: (R, K), (R,), (R,), (R, 1) -> ()."""
        table = self.tables(logits.dtype)[0] if _uses_table(logits, self) else None
        weight = self.background_weight.like(logits)
        by_class = weight if isinstance(weight, Tensor) else None
        background = torch.zeros((), dtype=working_type(logits), device=logits.device)
        column, has_target, targets = _target_logits(logits, labels, valid)
        for rows in _row_chunks(logits, whole=self.compile):
            background = background + self.sum_of_losses(
                logits[rows], valid[rows], column[rows], has_target[rows], self.margin_loss, by_class, table
            )
        if by_class is None:
            background = weight * background
        return background + torch.where(has_target, self.target_loss(targets, column, iou), 0).sum()

    def gradient(
        self, scale: Tensor, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None = None
    ) -> Tensor:
        """Compute the gradient of `value` times a scale (): (R, K) in the dtype of the logits."""
        background_scale: Tensor | None = scale * self.background_weight.like(logits)  # () or (K,)
        table = self.tables(logits.dtype)[1] if _uses_table(logits, self) else None
        if table is not None and background_scale.ndim == 0:
            # Multiply once per possible value instead of once per logit.
            table, background_scale = (table * background_scale).to(logits.dtype), None
        gradient = torch.empty_like(logits)
        column, has_target, targets = _target_logits(logits, labels, valid)
        target_gradient = self.target_derivative(targets, column, iou, scale).to(gradient.dtype)
        for rows in _row_chunks(logits, whole=self.compile):
            chunk = self.scaled_derivatives(logits[rows], valid[rows], background_scale, self.margin_loss, table)
            # Scatter into the chunk: on a CPU, scatter makes a float32 copy of a 16-bit tensor.
            kept = chunk.gather(1, column[rows])
            replaced = torch.where(has_target[rows], target_gradient[rows], kept)
            gradient[rows] = chunk.scatter_(1, column[rows], replaced)
        return gradient

    def tables(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return float32 tables of h and h' for all 65,536 values of a 16-bit dtype, indexed by their bits."""
        if dtype not in self._tables:
            every = torch.arange(2**16).to(torch.uint16).view(dtype).double()
            # Clamp the values: at infinity, the formula for the derivative may evaluate to infinity * 0.
            derivatives = self.margin_loss.derivative(every.clamp(-1e5, 1e5))
            self._tables[dtype] = (self.margin_loss.value(every).float(), derivatives.float())
        return self._tables[dtype]


class _FusedSigmoidSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, logits: Tensor, labels: Tensor, valid: Tensor, iou: Tensor | None, loss: FusedSigmoidLoss
    ) -> Tensor:
        ctx.save_for_backward(logits, labels, valid, iou)
        ctx.loss = loss
        return loss.value(logits, labels, valid, iou)

    @staticmethod
    @differentiable_once
    def backward(ctx: FunctionCtx, scale: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.loss.gradient(scale, *ctx.saved_tensors), None, None, None, None


def _sum_of_losses(
    logits: Tensor,
    valid: Tensor,
    column: Tensor,
    has_target: Tensor,
    margin_loss: MarginLoss,
    weights: Tensor | None,
    table: Tensor | None,
) -> Tensor:
    """Sum the background losses of all logits except the targets: (R, K), (R,), (R, 1), (R, 1) -> ().

    `weights` is (K,). `table`, if given, contains precomputed losses, indexed by the bits of a logit.
    """
    losses = margin_loss.value(logits.to(working_type(logits))) if table is None else _look_up(logits, table)
    losses.scatter_(1, column, torch.where(has_target, 0, losses.gather(1, column)))
    per_anchor = losses.sum(1) if weights is None else losses @ weights
    return torch.where(valid, per_anchor, 0).sum()


def _scaled_derivatives(
    logits: Tensor, valid: Tensor, scale: Tensor | None, margin_loss: MarginLoss, table: Tensor | None
) -> Tensor:
    """Derivatives of the background loss, times a scale () or (K,): (R, K), (R,) -> (R, K) in the logits' dtype.

    `table`, if given, contains precomputed derivatives, indexed by the bits of a logit. If `scale` is None, they are
    already scaled.
    """
    if table is None:
        derivatives = margin_loss.derivative(logits.to(working_type(logits)))
    else:
        derivatives = _look_up(logits, table)
    if scale is None:
        return derivatives.mul_(valid.to(derivatives.dtype)[:, None])
    return derivatives.mul_(torch.where(valid[:, None], scale, 0)).to(logits.dtype)


def _look_up(values: Tensor, table: Tensor) -> Tensor:
    """Entries (R, K) of a table (65536,) indexed by the bits of 16-bit values (R, K)."""
    index = values.view(torch.uint16).to(torch.int64)
    return table.expand(len(values), -1).gather(1, index)  # the fastest way to index on a CPU, by a factor of two


def _uses_table(logits: Tensor, loss: FusedSigmoidLoss) -> bool:
    """Whether to use lookup tables: on a CPU, looking up one of 65,536 values is faster than computing it."""
    return logits.dtype in HALF_TYPES and logits.device.type == "cpu" and not loss.compile


def _row_chunks(logits: Tensor, *, whole: bool) -> Iterator[slice]:
    rows = len(logits)
    step = rows if whole else rows_at_once(logits)
    return (slice(start, start + step) for start in range(0, rows, max(1, step)))


def _target_logits(logits: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each row: column of its class, whether it has one, and its target logit in the loss dtype; (R, 1) each."""
    num_classes = logits.shape[1]
    column = labels.clamp(max=num_classes - 1)[:, None]
    has_target = (valid & (labels < num_classes))[:, None]
    return column, has_target, logits.gather(1, column).to(working_type(logits))
