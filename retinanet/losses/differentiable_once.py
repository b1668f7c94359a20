"""Backward passes that cannot be differentiated again and raise an error on any attempt."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def differentiable_once(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorate the `backward` of an autograd function whose gradients cannot be differentiated again.

    torch's own `once_differentiable` raises an error only if the incoming gradient requires a gradient. Otherwise, as
    in a gradient penalty on a loss, the gradients are constants, and the penalty has no effect.
    """

    @functools.wraps(backward)
    def decorated(ctx: Any, *incoming: Tensor) -> Gradients:
        with torch.no_grad():
            gradients = backward(ctx, *incoming)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # not called with create_graph
            return gradients
        sources = [
            value for value in (*ctx.saved_tensors, *incoming) if isinstance(value, Tensor) and value.requires_grad
        ]
        return tuple(value if value is None else _Undifferentiable.apply(value, *sources) for value in gradients)

    return decorated


class _Undifferentiable(torch.autograd.Function):
    """Returns `value`, which depends on `sources` in a way that autograd cannot follow."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *sources: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> Gradients:
        raise RuntimeError(
            "this class loss can be differentiated only once, so gradient penalties and Hessians are not available; "
            "call backward or grad without create_graph, or do not differentiate the gradient"
        )
