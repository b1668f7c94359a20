"""Weights that belong to one pyramid level: match them between detectors with different levels."""

import re
from collections.abc import Sequence

from torch import Tensor

# Layers numbered from the finest level: lateral and output convolutions of the pyramid, norms per level in the head.
_NUMBERED = re.compile(r"(fpn\.(?:laterals|outputs)\.|head\.\w+_subnet\.\d+\.)(\d+)(\..+)")
_EXTRA = re.compile(r"fpn\.p(\d+)\..+")


def match_levels(
    state: dict[str, Tensor], initial: dict[str, Tensor], *, trained: Sequence[int], wanted: Sequence[int]
) -> dict[str, Tensor]:
    """Rename the weights of every level that both detectors have, drop those of others, and add initial values.

    Args:
        state: weights of a detector with the levels `trained`, such as 3, 4, 5, 6, 7.
        initial: weights of a detector with the levels `wanted`; provides those of levels that are not in `trained`.

    Returns: weights with the names of a detector with the levels `wanted`.
    """
    matched: dict[str, Tensor] = {}
    for name, value in state.items():
        level = _level_of(name, trained[0])
        if level is None:
            matched[name] = value
        elif level in wanted:
            matched[_NUMBERED.sub(rf"\g<1>{level - wanted[0]}\g<3>", name)] = value
    new = {name for name in initial if (level := _level_of(name, wanted[0])) is not None and level not in trained}
    return matched | {name: initial[name] for name in new}


def _level_of(name: str, first: int) -> int | None:
    """Number of the level to which a weight belongs, if the finest level is `first`; None: all levels share it."""
    if numbered := _NUMBERED.fullmatch(name):
        return first + int(numbered[2])
    extra = _EXTRA.fullmatch(name)
    return int(extra[1]) if extra else None
