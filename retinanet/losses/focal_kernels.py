"""Memory-saving evaluation of the public focal loss, and the choice between kernels and plain operations.

A kernel computes a loss and its gradient without recording operations: of the tensors as large as the logits, autograd
keeps only the logits. Second derivatives, `torch.func` and `torch.compile` use the kernel's formula instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from retinanet.losses.chunking import logits_at_once, working_type
from retinanet.losses.class_weights import ClassWeights
from retinanet.losses.focal_formulas import softmax_margin_terms
from retinanet.losses.focal_terms import SigmoidTerms, SoftmaxTerms
from retinanet.losses.focal_weights import Reduction, Weights
from retinanet.losses.margin import FocalMargin
from retinanet.losses.sigmoid import SigmoidFocalLoss
from retinanet.losses.softmax_focal import negative_margins, softmax_focal_gradient

Block = tuple[slice, slice, slice]


class Kernel(Protocol):
    """A loss of logits (N, C, S) and targets (N, 1 or C, S)."""

    def formula(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss with operations that autograd can record."""

    def value(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute the loss, and tensors to keep for `gradient`."""

    def gradient(self, scale: Tensor, logits: Tensor, targets: Tensor, *kept: Tensor) -> Tensor:
        """Compute the gradient in the logits' dtype, given the derivative of the final result by this loss."""


def evaluate(kernel: Kernel, logits: Tensor, targets: Tensor) -> Tensor:
    """Compute a kernel's loss, differentiable any number of times with respect to the logits."""
    if torch.compiler.is_compiling() or is_transformed(logits):
        return kernel.formula(logits, targets)
    return _Evaluation.apply(kernel, logits, targets)


def is_transformed(tensor: Tensor) -> bool:
    """Whether torch traces operations on a tensor: `torch.func`, forward-mode derivatives or batched gradients."""
    # There is no public function for the first and the last. kornia and torch's own autograd.Function use the same.
    return (
        torch._C._are_functorch_transforms_active()
        or unpack_dual(tensor).tangent is not None
        or torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


class _Evaluation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, logits: Tensor, targets: Tensor) -> Tensor:
        value, kept = kernel.value(logits, targets)
        ctx.save_for_backward(logits, targets, *kept)
        ctx.kernel = kernel
        return value

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[None, Tensor, None]:
        logits, targets, *kept = ctx.saved_tensors
        twice = torch.is_grad_enabled()  # called with create_graph
        if not twice and not is_transformed(scale):
            return None, ctx.kernel.gradient(scale, logits, targets, *kept), None
        with torch.enable_grad():
            logits = logits if twice else logits.detach().requires_grad_()
            value = ctx.kernel.formula(logits, targets)
            (gradient,) = torch.autograd.grad(value, logits, scale, create_graph=twice)
        return None, gradient, None


@dataclass(frozen=True)
class BlockKernel:
    """Losses of labels of any kind, computed block by block.

    Attributes:
        total: whether to return the sum () of the terms instead of one term per logit or target.
    """

    terms: SigmoidTerms | SoftmaxTerms
    total: bool

    def formula(self, logits: Tensor, targets: Tensor) -> Tensor:
        terms = self.terms(logits, targets)
        return terms.sum() if self.total else terms

    def value(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.total:
            total = logits.new_zeros((), dtype=working_type(logits))
            for block in _blocks(logits):
                total = total + self.terms.values(logits[block], targets[block]).sum()
            return total, ()
        shape = logits.shape if isinstance(self.terms, SigmoidTerms) else (len(logits), 1, logits.shape[2])
        terms = logits.new_empty(shape, dtype=working_type(logits))
        for block in _blocks(logits):
            terms[block] = self.terms.values(logits[block], targets[block])
        return terms, ()

    def gradient(self, scale: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(logits)
        for block in _blocks(logits):
            of_terms = scale if self.total else scale[block]
            # Scaled before it is rounded to the logits' dtype.
            gradient[block] = self.terms.gradient(of_terms, logits[block], targets[block])
        return gradient


@dataclass(frozen=True)
class CrossEntropyKernel:
    """Binary cross entropy (gamma 0) with the reductions of torch: value and gradient equal torch's, bit for bit.

    It works on all logits at once: the last bit of a logarithm and of a sum depends on the position in the tensor.
    """

    terms: SigmoidTerms
    reduction: Reduction

    def formula(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._reduced(self.terms(logits, targets))

    def value(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        terms = self.terms.without_one_hot(logits, targets) if self.terms.of_classes else self.terms(logits, targets)
        return self._reduced(terms), ()

    def gradient(self, scale: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        gradient = self.terms.cross_entropy_derivative(logits, targets, scale)
        # torch divides the gradient last, too; dividing the scale instead would round differently.
        return (gradient / logits.numel() if self.reduction == "mean" else gradient).to(logits.dtype)

    def _reduced(self, terms: Tensor) -> Tensor:
        match self.reduction:
            case "mean":
                return terms.mean()
            case "sum":
                return terms.sum()
            case _:
                return terms


@dataclass(frozen=True)
class FusedSigmoidKernel:
    """Sum of the sigmoid terms of class indices, with the detector's kernel (`fused_sigmoid.py`)."""

    terms: SigmoidTerms

    def formula(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.terms(logits, targets).sum()

    def value(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self._loss().value(rows_of(logits), *self._labels(logits, targets)), ()

    def gradient(self, scale: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        gradient = self._loss().gradient(scale, rows_of(logits), *self._labels(logits, targets))
        return from_rows(gradient, logits)

    def _loss(self) -> SigmoidFocalLoss:
        return _sigmoid_loss(self.terms.weights, self.terms.gamma)

    def _labels(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        labels = targets.flatten().long()
        valid = labels != self.terms.ignore_index
        return torch.where(valid, labels, logits.shape[1]), valid


@dataclass(frozen=True)
class SoftmaxKernel:
    """Softmax focal losses of class indices, one per target, with the detector's kernel (`softmax_focal.py`)."""

    gamma: float

    def formula(self, logits: Tensor, targets: Tensor) -> Tensor:
        return softmax_margin_terms(rows_of(logits), targets.flatten(), self.gamma).view(targets.shape)

    def value(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        z = negative_margins(rows_of(logits), targets.flatten())
        return FocalMargin(self.gamma).value(z).view(targets.shape), (z,)

    def gradient(self, scale: Tensor, logits: Tensor, targets: Tensor, z: Tensor) -> Tensor:
        gradient = softmax_focal_gradient(scale.flatten(), rows_of(logits), targets.flatten(), z, gamma=self.gamma)
        return from_rows(gradient, logits)


def rows_of(logits: Tensor) -> Tensor:
    """(N, C, S) -> (N S, C)."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])


def from_rows(rows: Tensor, logits: Tensor) -> Tensor:
    """Reverse `rows_of`: (N S, C), (N, C, S) -> (N, C, S)."""
    return rows.view(logits.shape[0], logits.shape[2], logits.shape[1]).movedim(-1, 1)


@lru_cache(maxsize=16)
def _sigmoid_loss(weights: tuple[Weights, Weights] | None, gamma: float) -> SigmoidFocalLoss:
    """The detector's loss, which keeps its tables of 16-bit values and its class weights on each device."""
    loss = SigmoidFocalLoss(alpha=None, gamma=gamma)
    if weights is not None:  # alpha would allow only weights that add up to 1
        loss.target_weight, loss.background_weight = map(ClassWeights, weights)
    return loss


def _blocks(logits: Tensor) -> Iterator[Block]:
    """Indices of blocks of logits (N, C, S) that fit a CPU's cache; the same indices select their targets."""
    samples, classes, positions = logits.shape
    most = logits_at_once(logits)
    width = min(max(1, positions), max(1, most // max(1, classes)))
    height = max(1, most // max(1, classes * width))
    for first in range(0, samples, height):
        for start in range(0, positions, width):
            yield slice(first, first + height), slice(None), slice(start, start + width)
