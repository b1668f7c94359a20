"""Record and replay the convolutions of a call: a lower bound on the time of any detector that computes them.

The convolutions are recorded at kernel dispatch, below autograd and autocast. The replay therefore uses the same
shapes, dtypes and memory formats, and computes only the gradients that were requested.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from retinanet.benchmarks.measure import decompose

FORWARD = torch.ops.aten.convolution.default
BACKWARD = torch.ops.aten.convolution_backward.default


class Spec(NamedTuple):
    """Description of a tensor without its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Recorded(NamedTuple):
    """One kernel call, with each tensor argument replaced by its `Spec`."""

    operation: torch._ops.OpOverload
    arguments: tuple


class Convolutions(TorchDispatchMode):
    """Context manager that records all forward and backward convolutions executed in it, in order."""

    def __init__(self):
        super().__init__()
        self.calls: list[Recorded] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        parts = decompose(self, func, args, kwargs or {})
        if parts is not NotImplemented:
            return parts
        if func in (FORWARD, BACKWARD):
            assert not kwargs, kwargs
            self.calls.append(Recorded(func, tuple(_spec(value) for value in args)))
        return func(*args, **(kwargs or {}))

    def count(self, operation: torch._ops.OpOverload) -> int:
        return sum(call.operation == operation for call in self.calls)


def _spec(value):
    if isinstance(value, Tensor):
        return Spec(tuple(value.shape), value.stride(), value.dtype, value.device)
    return value


def record(call: Callable[[], object]) -> Convolutions:
    with Convolutions() as convolutions:
        call()
    return convolutions


def replay(convolutions: Convolutions) -> Callable[[], None]:
    """Return a function that repeats every recorded convolution on random values and discards the results.

    Tensors with equal specs share memory, so cache hits are more frequent than in a network. This favours the replay.
    """
    made: dict[Spec, Tensor] = {}

    def argument(value):
        if not isinstance(value, Spec):
            return value
        if value not in made:
            tensor = torch.empty_strided(value.shape, value.strides, dtype=value.dtype, device=value.device)
            made[value] = tensor.copy_(torch.randn(value.shape, device=value.device))
        return made[value]

    prepared = [(call.operation, [argument(value) for value in call.arguments]) for call in convolutions.calls]

    @torch.no_grad()
    def run() -> None:
        for operation, arguments in prepared:
            operation(*arguments)

    return run
