"""Readable reference for the class losses with one sigmoid per class; `fused_sigmoid.py` is the fast version."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    target_loss: Callable[[Tensor], Tensor],
    background_loss: Callable[[Tensor], Tensor],
) -> Tensor:
    """Sum a loss per logit over the classes of all valid anchors: the reference for `fused_sigmoid.py`.

    It allocates a one-hot target and several tensors as large as the logits; training uses the fused kernel instead.

    Args:
        logits: (..., K).
        labels: (...) int64, 0..K-1, or K for background.
        valid: (...) bool, False for ignored anchors.
        target_loss: (..., K) -> (..., K), elementwise: loss of a logit that belongs to the anchor's class.
        background_loss: (..., K) -> (..., K), elementwise: loss of a logit that belongs to any other class.

    Returns: (), differentiable by autograd if the two losses are.
    """
    num_classes = logits.shape[-1]
    is_target = F.one_hot(labels, num_classes + 1)[..., :num_classes].bool()  # (..., K)
    losses = torch.where(is_target, target_loss(logits), background_loss(logits))
    return losses[valid].sum()
