"""Find modules within a network, with their places, at which they can be replaced."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def places_of(module: nn.Module, kind: type[M]) -> list[tuple[nn.Module, str, M]]:
    """List every module of a type within a module: its parent, its name in the parent, and itself.

    `parent.add_module(name, other)` replaces it.
    """
    return [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
