"""Fold the batch norms of a trained network into its convolutions, and check that its outputs stay the same."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import FrozenBatchNorm2d

from retinanet.model.folded_conv import ScaleAndShift, scale_and_shift, scale_filters
from retinanet.model.places import places_of

log = logging.getLogger(__name__)

# Largest accepted difference, relative to the largest value of the same tensor, in units of the rounding error of its
# dtype: 0.0012 in float32. Rounding in a network of 100 layers causes about 10; a lost activation more than 1e5.
TOLERANCE = 1e4


@dataclass(kw_only=True)
class Pair:
    """A convolution and the batch norm that is applied to its output, with their input and output in one forward pass.

    Args:
        between: output of the convolution.
        uses: number of operations that read `between` or change it.
    """

    conv: nn.Conv2d
    input: Tensor
    between: Tensor
    uses: int = 0
    norm: _BatchNorm | None = None
    output: Tensor | None = None


@torch.no_grad()
def fix_level_norms_(head: nn.Module) -> None:
    """Replace the batch norms of each pyramid level, in evaluation mode, with a scale and a shift.

    They cannot be folded into the convolutions, which all levels share. A low precision rounds only the scale and the
    shift, not the running statistics.
    """
    for norms in list(head.modules()):
        if isinstance(norms, nn.ModuleList):
            for level, norm in enumerate(norms):
                if isinstance(norm, _BatchNorm):
                    norms[level] = ScaleAndShift(*scale_and_shift(norm))


def fold_norms_(module: nn.Module, run: Callable[[], list[Tensor]]) -> None:
    """Fold batch norms in evaluation mode into the convolutions before them, if this does not change the outputs.

    The pairs are found by running the network, since modules may be registered in another order than they are applied.
    A batch norm is replaced by its child modules, which subclasses apply after it (timm's `BatchNormAct2d`), or by
    `Identity`. The output of each pair is compared before and after folding; if it differs, for example because a
    subclass of norm or convolution computes something else, the pair is restored. Finally, the outputs of the network
    are compared; if they differ, nothing is folded. Batch norms that do not follow a convolution remain.

    Args:
        module: network in evaluation mode, changed in place.
        run: runs the network on fixed inputs and returns its outputs, and other tensors to compare.
    """
    with torch.no_grad(), _exact_convolutions():
        expected = run()
        _replace_frozen_norms_(module)
        undo: list[Callable[[], None]] = []
        places = {norm: (parent, name) for parent, name, norm in places_of(module, _BatchNorm)}
        for pair in _find_pairs(module, run):
            assert pair.norm is not None and pair.output is not None
            parent, name = places[pair.norm]
            restore = _fold(pair, parent, name)
            if _same(getattr(parent, name)(pair.conv(pair.input)), pair.output):
                undo.append(restore)
            else:
                restore()
        folded = run()
        if not all(_same(one, other) for one, other in zip(folded, expected, strict=True)):
            for restore in reversed(undo):
                restore()
            log.warning(
                "the network with folded batch norms computes different outputs: its %d batch norms are not folded, "
                "so inference takes longer; results are not affected",
                len(undo),
            )


def _fold(pair: Pair, parent: nn.Module, name: str) -> Callable[[], None]:
    """Fold the norm of a pair, called `name` in `parent`; return a function that undoes it."""
    conv, norm = pair.conv, pair.norm
    assert norm is not None
    weight, bias = conv.weight.detach().clone(), conv.bias
    scale, shift = scale_and_shift(norm)
    conv.weight.copy_(scale_filters(conv.weight, scale))
    folded = shift if bias is None else bias * scale + shift
    conv.bias = nn.Parameter(folded, requires_grad=False)
    children = list(norm.children())
    rest = [child for child in children if not isinstance(child, nn.Identity)]
    parent.add_module(name, nn.Sequential(*rest) if rest else nn.Identity())

    def restore() -> None:
        conv.weight.copy_(weight)
        conv.bias = bias
        parent.add_module(name, norm)

    return restore


def _find_pairs(module: nn.Module, run: Callable[[], list[Tensor]]) -> list[Pair]:
    """Run the network, and find every batch norm that alone uses the output of a convolution; both run only once."""
    pairs: dict[int, Pair] = {}  # by the id of the output of the convolution, which the pair keeps alive
    calls: dict[nn.Module, int] = {}

    def after_conv(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        calls[conv] = calls.get(conv, 0) + 1
        pairs[id(output)] = Pair(conv=conv, input=inputs[0].clone(), between=output)

    def after_norm(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(norm, _BatchNorm)
        calls[norm] = calls.get(norm, 0) + 1
        pair = pairs.get(id(inputs[0]))
        if pair is not None and pair.norm is None:
            pair.norm, pair.output = norm, output.clone()

    with _forward_hooks(module, after_conv, after_norm), _CountUses(pairs):
        run()
    return [
        pair
        for pair in pairs.values()
        if pair.norm is not None and pair.uses == 1 and calls[pair.conv] == 1 and calls[pair.norm] == 1
    ]


class _CountUses(TorchDispatchMode):
    """Counts the operations on the output of each convolution."""

    def __init__(self, pairs: dict[int, Pair]):
        super().__init__()
        self.pairs = pairs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if id(value) in self.pairs:
                self.pairs[id(value)].uses += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _forward_hooks(
    module: nn.Module, after_conv: Callable[..., None], after_norm: Callable[..., None]
) -> Iterator[None]:
    handles = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            handles.append(part.register_forward_hook(after_conv))
        elif isinstance(part, _BatchNorm) and part.running_mean is not None:
            handles.append(part.register_forward_hook(after_norm))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replace_frozen_norms_(module: nn.Module) -> None:
    """Replace every `FrozenBatchNorm2d` by an equal `BatchNorm2d`: `conv_norm` calls only the latter as a module."""
    for parent, name, frozen in places_of(module, FrozenBatchNorm2d):
        norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps, device=frozen.weight.device)
        norm.to(frozen.weight.dtype).load_state_dict(frozen.state_dict(), strict=False)
        parent.add_module(name, norm.eval().requires_grad_(False))


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding. Values that are not finite must be in the same places."""
    largest = other.abs().nan_to_num(nan=0.0, posinf=0.0).max().item() if other.numel() else 0.0
    atol = TOLERANCE * torch.finfo(other.dtype).eps * largest
    return torch.allclose(one, other, rtol=0.0, atol=atol, equal_nan=True)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Turn off TensorFloat-32, whose rounding errors are a thousand times larger."""
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield
