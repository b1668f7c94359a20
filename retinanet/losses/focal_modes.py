"""The two modes of the public focal loss: choose a kernel, weight the losses, and reduce them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.chunking import working_type
from retinanet.losses.focal_arguments import Normalizer, Reduction
from retinanet.losses.focal_kernels import (
    BlockKernel,
    CrossEntropyKernel,
    FusedSigmoidKernel,
    Kernel,
    SoftmaxKernel,
    evaluate,
)
from retinanet.losses.focal_terms import SigmoidTerms, SoftmaxTerms, per_class


def softmax_loss(
    logits: Tensor, targets: Tensor, terms: SoftmaxTerms, reduction: Reduction, normalizer: Normalizer
) -> Tensor:
    """Compute the loss of checked inputs in softmax mode; see `focal_loss`."""
    if terms.of_classes:
        targets = targets.long()
    if normalizer is not None:
        reduction = "sum"
    if terms.gamma == 0:
        result = _cross_entropy(logits, targets, terms, reduction)
    else:
        losses = _softmax_losses(logits, targets, terms)
        if reduction == "none":
            return losses
        result = losses.sum()
        if reduction == "mean":
            weight = _target_weight(logits, targets, terms)
            result = result / torch.where(weight > 0, weight, 1)
    return result if normalizer is None else result / normalizer


def _softmax_losses(logits: Tensor, targets: Tensor, terms: SoftmaxTerms) -> Tensor:
    """Compute one weighted loss per target: (N, C, d1, ...) -> (N, d1, ...)."""
    flat = _flatten(logits, class_dimension=True)  # (N, C, S)
    shape = logits.shape[:1] + logits.shape[2:] if logits.ndim > 1 else ()
    if not terms.of_classes or terms.label_smoothing:
        labels = targets.reshape(len(flat), 1 if terms.of_classes else flat.shape[1], flat.shape[2])
        return evaluate(BlockKernel(terms, total=False), flat, labels).view(shape)
    index = targets.reshape(len(flat), 1, flat.shape[2])
    valid = index != terms.ignore_index
    index = torch.where(valid, index, 0)
    losses = evaluate(SoftmaxKernel(terms.gamma), flat, index)
    if isinstance(terms.alpha, tuple):
        losses = losses * per_class(terms.alpha, losses).squeeze(1)[index]
    elif terms.alpha is not None:
        losses = losses * terms.alpha
    return torch.where(valid, losses, 0).view(shape)


def _cross_entropy(logits: Tensor, targets: Tensor, terms: SoftmaxTerms, reduction: Reduction) -> Tensor:
    """Compute torch's cross entropy in the dtype of the loss, bit for bit, except that a mean without targets is 0."""
    logits = logits.to(working_type(logits))
    weights = per_class(terms.alpha, logits).squeeze(1) if isinstance(terms.alpha, tuple) else None
    settings = {"reduction": reduction, "label_smoothing": terms.label_smoothing}
    if terms.of_classes:
        settings["ignore_index"] = terms.ignore_index
    else:
        targets = targets.to(logits.dtype)
    weight = _target_weight(logits, targets, terms) if reduction == "mean" else None
    if weight is not None and weights is not None and terms.of_classes:
        # Without this, torch would divide 0 by 0 if all targets have weight 0; the result is replaced below.
        weights = torch.where(weight > 0, weights, 1)
    result = F.cross_entropy(logits, targets, weights, **settings)
    if weight is not None:
        result = torch.where(weight > 0, result, 0)
    return result if not isinstance(terms.alpha, float) else result * terms.alpha


def _target_weight(logits: Tensor, targets: Tensor, terms: SoftmaxTerms) -> Tensor:
    """What torch's mean divides by: the weights of the valid targets, or the number of soft labels."""
    dtype = working_type(logits)
    if not terms.of_classes:
        return torch.tensor(logits.numel() // logits.shape[min(1, logits.ndim - 1)], dtype=dtype, device=logits.device)
    valid = targets != terms.ignore_index
    if not isinstance(terms.alpha, tuple):
        return valid.sum().to(dtype)
    weights = torch.tensor(terms.alpha, dtype=dtype, device=logits.device)
    return torch.where(valid, weights[torch.where(valid, targets, 0)], 0).sum()


def sigmoid_loss(
    logits: Tensor, targets: Tensor, terms: SigmoidTerms, reduction: Reduction, normalizer: Normalizer
) -> Tensor:
    """Compute the loss of checked inputs in sigmoid mode; see `focal_loss`."""
    flat = _flatten(logits, class_dimension=terms.of_classes or logits.ndim > 1)
    if terms.of_classes:
        targets = targets.reshape(len(flat), 1, flat.shape[2]).long()
    else:
        targets = targets.reshape(flat.shape)
    if reduction == "none":
        return evaluate(_sigmoid_kernel(terms, "none"), flat, targets).view(logits.shape)
    if terms.gamma == 0 and reduction == "mean" and normalizer is None and logits.numel():
        # With nothing ignored, the factor is 1, and this is torch's mean bit for bit.
        factor = logits.numel() / _num_valid(flat, targets, terms).clamp(min=1)
        return evaluate(CrossEntropyKernel(terms, "mean"), flat, targets) * factor
    total = evaluate(_sigmoid_kernel(terms, "sum"), flat, targets)
    if normalizer == "positives":
        return total / _num_positive(flat, targets, terms).clamp(min=1)
    if normalizer is not None:
        return total / normalizer
    return total / _num_valid(flat, targets, terms).clamp(min=1) if reduction == "mean" else total


def _sigmoid_kernel(terms: SigmoidTerms, reduction: Reduction) -> Kernel:
    if terms.gamma == 0:
        return CrossEntropyKernel(terms, reduction)
    if reduction == "none" or not terms.of_classes or terms.label_smoothing:
        return BlockKernel(terms, total=reduction == "sum")
    return FusedSigmoidKernel(terms)


def _num_valid(logits: Tensor, targets: Tensor, terms: SigmoidTerms) -> Tensor:
    """Number of logits that are not ignored, (), in the dtype of the loss."""
    # A sum would convert to int64 first, which takes eight times the memory of the comparison.
    valid = torch.count_nonzero(targets != terms.ignore_index) * (logits.shape[1] if terms.of_classes else 1)
    return valid.to(working_type(logits))


def _num_positive(logits: Tensor, targets: Tensor, terms: SigmoidTerms) -> Tensor:
    """Number of valid targets that have a class, or of labels above 0: (), in the dtype of the loss."""
    highest = logits.shape[1] - 1 if terms.of_classes else math.inf
    lowest_met = targets >= 0 if terms.of_classes else targets > 0
    positive = lowest_met & (targets <= highest) & (targets != terms.ignore_index)
    return torch.count_nonzero(positive).to(working_type(logits))


def _flatten(logits: Tensor, *, class_dimension: bool) -> Tensor:
    """View logits as (N, C, S): samples, classes, positions. Without a class dimension, (N, 1, 1)."""
    if not class_dimension:
        return logits.reshape(-1, 1, 1)
    if logits.ndim == 1:
        return logits[None, :, None]
    return logits.reshape(*logits.shape[:2], math.prod(logits.shape[2:]))
