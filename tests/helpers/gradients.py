"""Value and gradient of a loss."""

from collections.abc import Callable

import torch
from torch import Tensor


def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a loss of logits and other arguments, and the gradient of its sum with respect to the logits."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, *others)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient
