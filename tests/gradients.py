"""Value and gradient of a loss, for tests."""

from collections.abc import Callable

import torch
from torch import Tensor


def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """What a loss of logits and others is, and the gradient of its sum in the logits."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, *others)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient
