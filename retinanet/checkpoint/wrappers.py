"""Prefixes that wrappers of a model add to the names in its state dict."""

from collections.abc import Mapping
from typing import TypeVar

from retinanet.errors import InputError

Value = TypeVar("Value")

# DistributedDataParallel and AveragedModel; torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
# Lightning and others keep the network in an attribute `model` of a larger module.
WRAPPERS_AND_MODEL = (*WRAPPERS, "model.")


def without_prefixes(
    state: Mapping[str, Value], prefixes: tuple[str, ...] = WRAPPERS_AND_MODEL, *, source: str
) -> dict[str, Value]:
    """Remove prefixes from the names of a state dict, in any order and number.

    A compiled part of a network adds `_orig_mod.` inside a name, which is removed as well.

    Raises:
        InputError: two names differ only in their prefixes.
    """
    names: dict[str, str] = {}
    for name in state:
        plain = name.replace("._orig_mod.", ".")
        while prefix := next((prefix for prefix in prefixes if plain.startswith(prefix)), None):
            plain = plain.removeprefix(prefix)
        if plain in names:
            raise InputError(
                f"{source}: contains {plain} twice, as {names[plain]} and {name}; save the state dict of one model only"
            )
        names[plain] = name
    return {plain: state[name] for plain, name in names.items()}
