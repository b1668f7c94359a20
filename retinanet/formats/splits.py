"""Recognise the splits of a dataset folder by their usual names, and choose one."""

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
    """Return a split's usual name: `val` for `valid`, `validation`, `dev` and `val2017`; otherwise the name itself."""
    name = re.sub(r"[_-]?\d{4}$", "", split.lower())
    return ALIASES.get(name, name)


def splits_in(names: Iterable[str]) -> list[str]:
    """Select file or folder names that are usual for splits, ordered train, val, test."""
    known = [name for name in names if usual_name(name) in SPLITS]
    return sorted(known, key=lambda name: (SPLITS.index(usual_name(name)), name))


def matching_splits(available: Sequence[str], split: str) -> list[str]:
    """Return the splits with this name or, if there are none, with an alias of it."""
    return [name for name in available if name == split] or [
        name for name in available if usual_name(name) == usual_name(split)
    ]


def choose_split(available: Sequence[str], *, split: str | None, part: str, source: str) -> str | None:
    """Choose which split of a folder to read.

    Args:
        available: the splits that the folder defines.
        split: the name given in the config; None to use `part`.
        part: "train" or "val", the config section of the source.
        source: the folder, for messages.

    Returns:
        One of the available splits, or None for a folder without splits.

    Raises:
        InputError: no split matches, or several do.
    """
    key = f"data.{part}.split"
    if not available:
        if split is None:
            return None
        raise InputError(f"{source}: has no splits, so {key}={split} cannot be read; remove {key} to read all of it")
    found = matching_splits(available, split or part)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(available)
    if found:
        raise InputError(f"{source}: several splits match {split or part}; set {key} to one of {', '.join(found)}")
    raise InputError(f"{source}: has no split {split or part}, only {listed}; set {key} to one of them")
