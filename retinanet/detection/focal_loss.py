"""The focal loss (Lin et al. 2017, section 3), value and gradient worked out by hand and in one pass each.

With z = x for a class that is not there and z = -x for one that is, -log(p_t) = softplus(z) and 1 - p_t = sigmoid(z).
Both kinds of example then have one and the same loss, up to alpha_t:

    h(z) = sigmoid(z)^gamma softplus(z),    h'(z) = sigmoid(z)^gamma (gamma sigmoid(-z) softplus(z) + sigmoid(z))

An anchor has at most one class. So every logit counts as background first, and one logit a row is then swapped: no
one-hot target is made, no anchor is picked out, and nothing of the size of the logits is kept for the way back.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Logits looked at together: a CPU stays inside its cache, and intermediate values stay small beside the logits.
LOGITS_AT_ONCE = {"cpu": 2**18}
LOGITS_AT_ONCE_ELSEWHERE = 2**24
HALF_TYPES = (torch.bfloat16, torch.float16)


class SigmoidFocal:
    """Sum of -alpha_t (1 - p_t)^gamma log(p_t) (eq. 5) over the anchors that count and all classes.

    Args:
        alpha: weight of an anchor's own class; every other class weighs 1 - alpha.
        gamma: how fast well-classified examples lose their weight; 0 is balanced cross entropy.
        compile: one compiled kernel each for value and gradient. Faster on an accelerator (unmeasured); on a CPU the
            eager way is (see benchmarks/results).
    """

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0, compile: bool = False):
        self.alpha = alpha
        self.gamma = gamma
        self.compile = compile
        self.sum_of_losses = torch.compile(_sum_of_losses, dynamic=True) if compile else _sum_of_losses
        self.scaled_slopes = torch.compile(_scaled_slopes, dynamic=True) if compile else _scaled_slopes
        self._tables: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def __call__(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """The sum, () in float32 (float64 for float64 logits), differentiable in the logits.

        Args:
            logits: (..., K), any float type. Arithmetic is float32; the gradient is rounded to the logits' type once,
                after everything that comes in from above has been multiplied. What is not finite shows in the sum or
                in the gradient, also where it is not counted.
            labels: (...) int64, 0..K-1, or K for an anchor of no class.
            counted: (...) bool, False for an anchor that takes no part.
        """
        return _FocalSum.apply(logits.flatten(0, -2), labels.flatten(), counted.flatten(), self)

    def tables(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """h and h' of all 65,536 values of a 16-bit type, float32, by their bits."""
        if dtype not in self._tables:
            every = torch.arange(2**16).to(torch.uint16).view(dtype).double()
            slopes = _slope(every.clamp(-1e5, 1e5), self.gamma)  # 1 at infinity, where the formula has infinity * 0
            self._tables[dtype] = (_loss(every, self.gamma).float(), slopes.float())
        return self._tables[dtype]


class _FocalSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, labels: Tensor, counted: Tensor, rule: SigmoidFocal) -> Tensor:
        ctx.save_for_backward(logits, labels, counted)
        ctx.rule = rule
        table = rule.tables(logits.dtype)[0] if _looks_up(logits, rule) else None
        background = torch.zeros((), dtype=_working_type(logits), device=logits.device)
        for rows in _row_chunks(logits, whole=rule.compile):
            background = background + rule.sum_of_losses(logits[rows], counted[rows], rule.gamma, table)
        _, is_class, own = _own_class(logits, labels, counted)
        swapped = rule.alpha * _loss(-own, rule.gamma) - (1 - rule.alpha) * _loss(own, rule.gamma)
        return (1 - rule.alpha) * background + torch.where(is_class, swapped, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, counted = ctx.saved_tensors
        rule = ctx.rule
        background_scale = scale * (1 - rule.alpha)
        table = None
        if _looks_up(logits, rule):
            # A multiplication for each value that there is, not for each logit.
            table = (rule.tables(logits.dtype)[1] * background_scale).to(logits.dtype)
        gradient = torch.empty_like(logits)
        column, is_class, own = _own_class(logits, labels, counted)
        swapped = (-rule.alpha * scale * _slope(-own, rule.gamma)).to(gradient.dtype)
        for rows in _row_chunks(logits, whole=rule.compile):
            chunk = rule.scaled_slopes(logits[rows], counted[rows], background_scale, rule.gamma, table)
            # In the chunk, since a CPU's scatter makes a float32 copy of a 16-bit tensor.
            kept = chunk.gather(1, column[rows])
            gradient[rows] = chunk.scatter_(1, column[rows], torch.where(is_class[rows], swapped[rows], kept))
        return gradient, None, None, None


def _loss(z: Tensor, gamma: float) -> Tensor:
    """h, elementwise; finite for any finite z."""
    # Of a sigmoid, never of one minus it: that would have lost the digits of a small error.
    return torch.sigmoid(z).pow_(gamma).mul_(F.softplus(z))


def _slope(z: Tensor, gamma: float) -> Tensor:
    """h', elementwise."""
    error = torch.sigmoid(z)
    slope = F.softplus(z).mul_(gamma)
    slope.addcmul_(slope, error, value=-1).add_(error)  # one minus the error is harmless here, where it is added to it
    return slope.mul_(error.pow_(gamma))


def _sum_of_losses(logits: Tensor, counted: Tensor, gamma: float, table: Tensor | None) -> Tensor:
    """Every logit as background: (R, K), (R,) -> (). A table has the losses by the bits of a logit."""
    losses = _loss(logits.to(_working_type(logits)), gamma) if table is None else _look_up(logits, table)
    return torch.where(counted, losses.sum(1), 0).sum()


def _scaled_slopes(logits: Tensor, counted: Tensor, scale: Tensor, gamma: float, table: Tensor | None) -> Tensor:
    """Every logit as background: (R, K), (R,), () -> (R, K) in the logits' type. A table has them scaled already."""
    if table is not None:
        return _look_up(logits, table).mul_(counted.to(table.dtype)[:, None])
    scale = torch.where(counted, scale, 0)[:, None]
    return _slope(logits.to(_working_type(logits)), gamma).mul_(scale).to(logits.dtype)


def _look_up(values: Tensor, table: Tensor) -> Tensor:
    """The entries (R, K) of a table (65536,) for values (R, K) of a 16-bit type, whose bits are their places in it."""
    places = values.view(torch.uint16).to(torch.int64)
    return table.expand(len(values), -1).gather(1, places)  # of all ways to index, a CPU's fastest by two


def _looks_up(logits: Tensor, rule: SigmoidFocal) -> bool:
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
