"""Prefixes that wrappers of a model add to the names in its state dict."""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from retinanet.errors import InputError

log = logging.getLogger(__name__)

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


def unwrapped(state: dict[str, Any], *, source: str) -> dict[str, Any]:
    """Remove the prefixes of wrappers from the weights and their average in the state of a checkpoint.

    Training writes no prefixes; they occur if somebody has saved the weights of a wrapped model in a checkpoint. The
    state is returned unchanged unless all names of weights have such a prefix.
    """
    weights = state.get("model")
    if not isinstance(weights, dict) or not weights or not all(name.startswith(WRAPPERS) for name in weights):
        return state
    log.warning("%s: removed the prefix of %s and of the other names of weights", source, next(iter(weights)))
    plain = state | {"model": without_prefixes(weights, WRAPPERS, source=source)}
    average = state.get("ema")
    if average:
        plain["ema"] = average | {"model": without_prefixes(average["model"], WRAPPERS, source=source)}
    return plain
