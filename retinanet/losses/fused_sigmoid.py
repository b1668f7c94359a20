"""Class losses of one sigmoid a class, value and gradient in one pass each over the logits.

With z = x for a class that is not there and z = -x for one that is, p_t = sigmoid(-z): a loss of p_t alone is one curve
h(z) for both kinds of example. An anchor has at most one class. So every logit is looked at as background first, and
one a row is then replaced: no one-hot target is made, no anchor is picked out, and nothing of the size of the logits is
kept for the way back. It is replaced before a sum is taken: what an easy object's logit would cost as background is far
more than what it costs, and taken off again afterwards it would leave its rounding error.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Logits looked at together: a CPU stays inside its cache, and intermediate values stay small beside the logits.
LOGITS_AT_ONCE = {"cpu": 2**18}
LOGITS_AT_ONCE_ELSEWHERE = 2**24
HALF_TYPES = (torch.bfloat16, torch.float16)


class Curve(Protocol):
    """What one logit costs, elementwise: float32 or float64 to a new tensor of the same."""

    def loss(self, z: Tensor) -> Tensor:
        """h, finite for any finite z."""

    def slope(self, z: Tensor) -> Tensor:
        """h', finite for any finite z."""


class Weights:
    """One number for all classes, or one for each."""

    def __init__(self, values: float | Sequence[float]):
        self.values = tuple(values) if isinstance(values, Sequence) else float(values)
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def check(self, num_classes: int) -> None:
        """
        Raises:
            ValueError: not as many as there are classes.
        """
        if isinstance(self.values, tuple) and len(self.values) != num_classes:
            raise ValueError(f"{len(self.values)} weights of classes for {num_classes} classes; give one a class")

    def like(self, logits: Tensor) -> float | Tensor:
        """The number, or (K,) where the logits are and in the type that is worked in."""
        if isinstance(self.values, float):
            return self.values
        key = (logits.device, _working_type(logits))
        if key not in self._copies:  # once a run: a device would wait for each copy
            self._copies[key] = torch.tensor(self.values, device=key[0], dtype=key[1])
        return self._copies[key]

    def at(self, columns: Tensor, own: Tensor) -> float | Tensor:
        """Those of the classes of some logits, both (R,) or (R, 1)."""
        weights = self.like(own)
        return weights[columns] if isinstance(weights, Tensor) else weights


class SigmoidSum(ABC):
    """A sum over anchors and classes: a weighted curve for every class that an anchor is not of, and for its own class
    what a subclass says.

    Args:
        curve: of the logits of other classes.
        background: their weight.
        compile: one compiled kernel each for value and gradient. Faster on an accelerator (unmeasured); on a CPU the
            eager way is (see benchmarks/results).
    """

    def __init__(self, curve: Curve, *, background: float | Sequence[float], compile: bool = False):
        self.curve = curve
        self.background = Weights(background)
        self.compile = compile
        self.sum_of_losses = torch.compile(_sum_of_losses, dynamic=True) if compile else _sum_of_losses
        self.scaled_slopes = torch.compile(_scaled_slopes, dynamic=True) if compile else _scaled_slopes
        self._tables: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def own_loss(self, own: Tensor, column: Tensor, quality: Tensor | None) -> Tensor:
        """Of logits (R, 1) of the classes (R, 1) that anchors are of, weighted."""

    @abstractmethod
    def own_slope(self, own: Tensor, column: Tensor, quality: Tensor | None, scale: Tensor) -> Tensor:
        """Its derivative in the logits, times a scale ()."""

    def sum(self, logits: Tensor, labels: Tensor, counted: Tensor, quality: Tensor | None = None) -> Tensor:
        """The sum, () in float32 (float64 for float64 logits), differentiable in the logits.

        Args:
            logits: (..., K), any float type. Arithmetic is float32; the gradient is rounded to the logits' type once,
                after everything that comes in from above has been multiplied. Not-a-number shows in the sum or in the
                gradient, also where it is not counted; an infinite logit may not: it is a very sure one.
            labels: (...) int64, 0..K-1, or K for an anchor of no class.
            counted: (...) bool, False for an anchor that takes no part.
            quality: (...) float32, handed on to `own_loss` and `own_slope`.

        Raises:
            ValueError: labels or `counted` are not those of the logits' anchors, or the weights not those of K classes.
                Labels out of range are not looked for, which would be a wait.
        """
        check_anchors(logits, labels, counted)
        self.background.check(logits.shape[-1])
        if quality is not None:
            quality = quality.flatten()[:, None].to(_working_type(logits))
        return _Sum.apply(logits.flatten(0, -2), labels.flatten(), counted.flatten(), quality, self)

    def tables(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """h and h' of all 65,536 values of a 16-bit type, float32, by their bits."""
        if dtype not in self._tables:
            every = torch.arange(2**16).to(torch.uint16).view(dtype).double()
            slopes = self.curve.slope(every.clamp(-1e5, 1e5))  # its limit at infinity, where a formula has infinity * 0
            self._tables[dtype] = (self.curve.loss(every).float(), slopes.float())
        return self._tables[dtype]


class SigmoidLoss(SigmoidSum):
    """Sum of alpha_t h(z) over the anchors that count and all classes.

    Args:
        curve: h.
        alpha: weight of an anchor's own class, where every other class weighs 1 - alpha; a list has one a class, which
            is used for all logits of that class. None: every example weighs 1.
        compile: as in `SigmoidSum`.
    """

    def __init__(self, curve: Curve, *, alpha: float | Sequence[float] | None = None, compile: bool = False):
        if alpha is None:
            own, background = 1.0, 1.0
        elif isinstance(alpha, Sequence):
            own, background = alpha, [1 - value for value in alpha]
        else:
            own, background = alpha, 1 - alpha
        super().__init__(curve, background=background, compile=compile)
        self.own = Weights(own)

    def __call__(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """See `SigmoidSum.sum`."""
        return self.sum(logits, labels, counted)

    def own_loss(self, own: Tensor, column: Tensor, quality: Tensor | None) -> Tensor:
        return self.own.at(column, own) * self.curve.loss(-own)

    def own_slope(self, own: Tensor, column: Tensor, quality: Tensor | None, scale: Tensor) -> Tensor:
        return -self.own.at(column, own) * scale * self.curve.slope(-own)


def check_anchors(logits: Tensor, labels: Tensor, counted: Tensor) -> None:
    """
    Raises:
        ValueError: not one label and one flag for each row of logits (..., K).
    """
    for name, value in (("labels", labels), ("counted", counted)):
        if value.shape != logits.shape[:-1]:
            raise ValueError(
                f"{name} have the shape {tuple(value.shape)}, expected {tuple(logits.shape[:-1])} for logits "
                f"{tuple(logits.shape)}"
            )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, logits: Tensor, labels: Tensor, counted: Tensor, quality: Tensor | None, rule: SigmoidSum
    ) -> Tensor:
        ctx.save_for_backward(logits, labels, counted, quality)
        ctx.rule = rule
        table = rule.tables(logits.dtype)[0] if _looks_up(logits, rule) else None
        weight = rule.background.like(logits)
        by_class = weight if isinstance(weight, Tensor) else None
        background = torch.zeros((), dtype=_working_type(logits), device=logits.device)
        column, is_class, own = _own_class(logits, labels, counted)
        for rows in _row_chunks(logits, whole=rule.compile):
            background = background + rule.sum_of_losses(
                logits[rows], counted[rows], column[rows], is_class[rows], rule.curve, by_class, table
            )
        if by_class is None:
            background = weight * background
        return background + torch.where(is_class, rule.own_loss(own, column, quality), 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, counted, quality = ctx.saved_tensors
        rule = ctx.rule
        background_scale: Tensor | None = scale * rule.background.like(logits)  # () or (K,)
        table = rule.tables(logits.dtype)[1] if _looks_up(logits, rule) else None
        if table is not None and background_scale.ndim == 0:
            # A multiplication for each value that there is, not for each logit.
            table, background_scale = (table * background_scale).to(logits.dtype), None
        gradient = torch.empty_like(logits)
        column, is_class, own = _own_class(logits, labels, counted)
        swapped = rule.own_slope(own, column, quality, scale).to(gradient.dtype)
        for rows in _row_chunks(logits, whole=rule.compile):
            chunk = rule.scaled_slopes(logits[rows], counted[rows], background_scale, rule.curve, table)
            # In the chunk, since a CPU's scatter makes a float32 copy of a 16-bit tensor.
            kept = chunk.gather(1, column[rows])
            gradient[rows] = chunk.scatter_(1, column[rows], torch.where(is_class[rows], swapped[rows], kept))
        return gradient, None, None, None, None


def _sum_of_losses(
    logits: Tensor,
    counted: Tensor,
    column: Tensor,
    is_class: Tensor,
    curve: Curve,
    weights: Tensor | None,
    table: Tensor | None,
) -> Tensor:
    """Every logit but that of a row's own class as background: (R, K), (R,), (R, 1), (R, 1) -> (), weights (K,).

    A table has the losses by the bits of a logit.
    """
    losses = curve.loss(logits.to(_working_type(logits))) if table is None else _look_up(logits, table)
    losses.scatter_(1, column, torch.where(is_class, 0, losses.gather(1, column)))
    each = losses.sum(1) if weights is None else losses @ weights
    return torch.where(counted, each, 0).sum()


def _scaled_slopes(logits: Tensor, counted: Tensor, scale: Tensor | None, curve: Curve, table: Tensor | None) -> Tensor:
    """Every logit as background: (R, K), (R,) -> (R, K) in the logits' type, times a scale () or (K,).

    A table has the slopes by a logit's bits; without a scale, it has them scaled already.
    """
    slopes = curve.slope(logits.to(_working_type(logits))) if table is None else _look_up(logits, table)
    if scale is None:
        return slopes.mul_(counted.to(slopes.dtype)[:, None])
    return slopes.mul_(torch.where(counted[:, None], scale, 0)).to(logits.dtype)


def _look_up(values: Tensor, table: Tensor) -> Tensor:
    """The entries (R, K) of a table (65536,) for values (R, K) of a 16-bit type, whose bits are their places in it."""
    places = values.view(torch.uint16).to(torch.int64)
    return table.expand(len(values), -1).gather(1, places)  # of all ways to index, a CPU's fastest by two


def _looks_up(logits: Tensor, rule: SigmoidSum) -> bool:
    """A CPU finds the loss of a 16-bit value faster than it computes it: there are only 65,536 of them."""
    return logits.dtype in HALF_TYPES and logits.device.type == "cpu" and not rule.compile


def _working_type(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _row_chunks(logits: Tensor, *, whole: bool) -> Iterator[slice]:
    rows, classes = logits.shape
    most = LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE)
    step = rows if whole else max(1, most // classes)
    return (slice(start, start + step) for start in range(0, rows, max(1, step)))


def _own_class(logits: Tensor, labels: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row (R, 1): the column of its class, whether it has one, and that logit in float32."""
    num_classes = logits.shape[1]
    column = labels.clamp(max=num_classes - 1)[:, None]
    is_class = (counted & (labels < num_classes))[:, None]
    return column, is_class, logits.gather(1, column).to(_working_type(logits))
