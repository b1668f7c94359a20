"""Match file names to files that are spelt differently, by one rule for all names of a source.

A rule never guesses: a name is matched only if exactly one file fits, and no other name matches that file.
"""

import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from retinanet.formats.image_paths.listing import IMAGE_SUFFIXES, is_image_name

_SAMPLE = 100  # names used to describe the difference
_ABSOLUTE = re.compile(r"[A-Za-z]:/|/|file:/")  # on any operating system


class Repair(NamedTuple):
    """Existing files for names that are spelt differently, relative to the image folder."""

    found: dict[str, str]
    difference: str


def slashed(name: str) -> str:
    """Write a path with forward slashes, whatever system it comes from."""
    return name.replace("\\", "/")


def _compose(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _strip_parts(name: str) -> str:
    return "/".join(part.strip() for part in name.split("/")) if " " in name else name


# The most harmless first; each step is applied after the previous ones, to both names and files.
_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("backslashes", slashed),
    ("the Unicode form of accented letters (NFC, NFD)", _compose),
    ("surrounding whitespace", _strip_parts),
    ("URL encoding (%20)", unquote),
    ("upper and lower case", str.casefold),
)


def spelling_key(name: str) -> str:
    """Return a key that is the same for names that differ only in spelling."""
    return _apply(name, _SPELLINGS)


def _apply(name: str, steps: Iterable[tuple[str, Callable[[str], str]]]) -> str:
    for _, step in steps:
        name = step(name)
    return name


def repair_names(names: Collection[str], files: Iterable[str], *, used: Collection[str]) -> Repair:
    """Match names to files by the rule that matches the largest number of them; on a tie, by the first such rule.

    Args:
        names: names of missing files.
        files: all files in the image folder, relative to it, with forward slashes.
        used: files that are already matched by other names.

    Returns: the matches, which may be empty.
    """
    best = _by_spelling(names, files, used)
    key_of = {file: spelling_key(file) for file in files} if len(best.found) < len(names) else {}
    for rule in (_by_extension, _by_foreign_prefix, _by_base_name):
        if len(best.found) < len(names):
            repair = rule(names, key_of, used)
            best = repair if len(repair.found) > len(best.found) else best
    return best


def _by_spelling(names: Collection[str], files: Iterable[str], used: Collection[str]) -> Repair:
    best: dict[str, str] = {}
    keys = {name: name for name in names}
    key_of = {file: file for file in files}
    for _, step in _SPELLINGS:
        keys = {name: step(key) for name, key in keys.items()}
        key_of = {file: step(key) for file, key in key_of.items()}
        found = _match(keys, key_of, used)
        best = found if len(found) > len(best) else best
        if len(best) == len(names):
            break
    return Repair(best, _differences(best))


def _differences(found: Mapping[str, str]) -> str:
    """Describe the differences between names and files: the steps without which a name would not match."""
    pairs = list(found.items())[:_SAMPLE]
    needed = []
    for left_out, (kind, _) in enumerate(_SPELLINGS):
        others = [step for number, step in enumerate(_SPELLINGS) if number != left_out]
        if any(_apply(name, others) != _apply(file, others) for name, file in pairs):
            needed.append(kind)
    return " and ".join(needed)


def _by_extension(names: Collection[str], key_of: Mapping[str, str], used: Collection[str]) -> Repair:
    """Add one extension to all names. If several match, choose none: `000` may be 000.jpg or its mask 000.png."""
    bare = [name for name in names if not is_image_name(name)]
    suffixes = {suffix.lower() for _, suffix in map(os.path.splitext, key_of)} & IMAGE_SUFFIXES if bare else set()
    found = {suffix: _match({name: spelling_key(name + suffix) for name in bare}, key_of, used) for suffix in suffixes}
    possible = [suffix for suffix in found if found[suffix]]
    if len(possible) != 1:
        return Repair({}, "")
    return Repair(found[possible[0]], f"the missing extension {possible[0]}")


def _by_foreign_prefix(names: Collection[str], key_of: Mapping[str, str], used: Collection[str]) -> Repair:
    """Remove a common leading folder from absolute paths of another computer."""
    parts = {name: slashed(name).split("/") for name in names if _ABSOLUTE.match(slashed(name))}
    folders = [path[:-1] for path in parts.values()]
    first, last = min(folders, default=[]), max(folders, default=[])
    common = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    by_depth = {}
    for depth in range(1, len(common) + 1):
        tails = {name: spelling_key("/".join(path[depth:])) for name, path in parts.items()}
        by_depth[depth] = _match(tails, key_of, used)
    most = max(map(len, by_depth.values()), default=0)
    depths = [depth for depth, found in by_depth.items() if len(found) == most]
    if not most or len(depths) > 1:
        return Repair({}, "")
    return Repair(by_depth[depths[0]], f"the folder {'/'.join(common[: depths[0]])} of another computer")


def _by_base_name(names: Collection[str], key_of: Mapping[str, str], used: Collection[str]) -> Repair:
    """Remove all folders from absolute paths of other computers, if base names are unique."""
    foreign = [name for name in names if _ABSOLUTE.match(slashed(name))]
    base_keys = {file: key for file, key in key_of.items() if "/" not in file}
    tails = {name: spelling_key(slashed(name).rpartition("/")[2]) for name in foreign}
    return Repair(_match(tails, base_keys, used), "folders of other computers")


def _match(keys: Mapping[str, str], key_of: Mapping[str, str], used: Collection[str]) -> dict[str, str]:
    """Match names to files by key; a key shared by two names or two files matches nothing."""
    name_of_key: dict[str, str | None] = {}
    for name, key in keys.items():
        name_of_key[key] = None if key in name_of_key else name
    file_of: dict[str, str | None] = {}
    for file, key in key_of.items() if name_of_key else ():
        if key in name_of_key:
            file_of[key] = None if key in file_of else file
    return {
        name: file
        for key, name in name_of_key.items()
        if name is not None and (file := file_of.get(key)) is not None and file not in used
    }
