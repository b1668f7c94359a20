"""The splits of a dataset folder: their usual names, and which one to read."""

import re
from collections.abc import Iterable, Sequence

from retinanet.errors import InputError

ALIASES = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "testing": "test",
}
SPLITS = ("train", "val", "test")
SPLIT_NAMES = (*SPLITS, *ALIASES)


def usual_name(split: str) -> str:
    """The usual name of a split: `val` for `valid`, `validation`, `dev` and `val2017`; otherwise the name itself."""
    name = re.sub(r"[_-]?\d{4}$", "", split.lower())
    return ALIASES.get(name, name)


def splits_in(names: Iterable[str]) -> list[str]:
    """Those of some file or folder names that are usual for splits: train splits first, then val, then test."""
    known = [name for name in names if usual_name(name) in SPLITS]
    return sorted(known, key=lambda name: (SPLITS.index(usual_name(name)), name))


def matching_splits(available: Sequence[str], wanted: str) -> list[str]:
    """The splits with this name or, if there is none, with an alias of it."""
    return [name for name in available if name == wanted] or [
        name for name in available if usual_name(name) == usual_name(wanted)
    ]


def choose_split(available: Sequence[str], *, split: str | None, part: str, source: str) -> str | None:
    """Choose the split of a folder to read.

    Args:
        available: the splits that the folder defines.
        split: the name given in the config; null for that of the part.
        part: "train" or "val", the part of the config that the source stands in.
        source: the folder, for messages.

    Returns:
        One of the available splits, or None for a folder without splits.

    Raises:
        InputError: there is no such split, or more than one.
    """
    key = f"data.{part}.split"
    if not available:
        if split is None:
            return None
        raise InputError(f"{source}: has no splits, so {key}={split} cannot be read; leave {key} out to read all of it")
    found = matching_splits(available, split or part)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(available)
    if found:
        raise InputError(
            f"{source}: more than one split could be {split or part}; set {key} to one of {', '.join(found)}"
        )
    raise InputError(f"{source}: has no split {split or part}, only {listed}; set {key} to one of them")
