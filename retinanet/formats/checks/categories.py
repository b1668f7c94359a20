"""Detect categories that are probably not meant to be separate classes."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from retinanet.formats.annotations import Annotations
from retinanet.formats.findings import Finding, shortened

BACKGROUND = {"background", "_background_", "__background__"}
MAX_CLASSES = 20  # in a suggested config line
_PLAIN = re.compile(r"[^\W\d][\w-]*")  # needs no quotes in YAML, unless it is one of the words below
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def check_categories(read: Sequence[Annotations], selected: Collection[str] | None, *, where: str) -> list[Finding]:
    """Compare the categories of all sources of a dataset with each other, and with their objects.

    Args:
        selected: categories selected by `data.classes`; only these are reported. None: all become classes.
        where: `Finding.where` of the findings.
    """
    names = dict.fromkeys(name for part in read for name in part.category_names)
    classes = [name for name in names if selected is None or name in selected]
    findings = [*_check_equal_names(read, classes, selected, where), *_check_similar_names(classes, selected, where)]
    objects = _count_objects(read)
    empty = [name for name in classes if not objects[name]]
    if len(empty) == len(classes):
        return findings  # another check reports datasets without objects
    for name in list(empty):
        others = [other for other in classes if other != name]
        if name.strip().lower() in BACKGROUND:
            what = "is the background, which is not a class for a detector"
        elif _is_root(name, read):
            what = "is the supercategory of all others"
        else:
            continue
        empty.remove(name)
        message = f"category {name!r} has no objects and {what}; exclude it with {_config_line(others)}"
        findings.append(Finding("warning", "not_a_class", where, message))
    if empty:
        message = f"{len(empty)} of {len(classes)} categories have no objects"
        findings.append(Finding("note", "category_without_objects", where, message, shortened(empty)))
    return findings


def with_id(name: str, category_id: int | str) -> str:
    """Return a unique name for a category whose name is already taken."""
    return f"{name} (id {category_id})"


def _count_objects(read: Sequence[Annotations]) -> Counter[str]:
    objects: Counter[str] = Counter()
    for part in read:
        counts = np.bincount(part.category_index[~part.is_crowd], minlength=len(part.category_names))
        objects.update(dict(zip(part.category_names, counts.tolist(), strict=True)))
    return objects


def _check_equal_names(
    read: Sequence[Annotations], classes: list[str], selected: Collection[str] | None, where: str
) -> list[Finding]:
    """Report categories with the same name, unless `data.classes` selects both or neither."""
    findings = []
    for part in read:
        id_of = dict(zip(part.category_names, part.category_ids or (), strict=False))
        for first, first_id in id_of.items():
            for second, second_id in id_of.items():
                if second != with_id(first, second_id):
                    continue
                if selected is not None and (first in selected) == (second in selected):
                    continue
                others = [name for name in classes if name not in (first, second)]
                merged = f"{{name: {_quoted(first)}, merge: [{_quoted(first)}, {_quoted(second)}]}}"
                message = (
                    f"categories {first_id} and {second_id} are both named {first!r}; to train them as one class, set "
                    f"{_config_line(others, merged)}; otherwise rename one of them in {part.source}"
                )
                findings.append(Finding("error", "category_name_twice", where, message))
    return findings


def _check_similar_names(classes: list[str], selected: Collection[str] | None, where: str) -> list[Finding]:
    """Report names that differ only in case or whitespace, unless `data.classes` selects them explicitly."""
    if selected is not None:
        return []
    groups = defaultdict(list)
    for name in classes:
        groups["".join(name.split()).casefold()].append(name)
    findings = []
    for same in groups.values():
        if len(same) > 1:
            others = [name for name in classes if name not in same]
            merged = f"{{name: {_quoted(same[0].strip())}, merge: [{', '.join(map(_quoted, same))}]}}"
            message = (
                f"the categories {', '.join(map(repr, same))} differ only in case or whitespace, and would "
                f"become different classes; to train them as one, set {_config_line(others, merged)}"
            )
            findings.append(Finding("warning", "category_names_similar", where, message))
    return findings


def _is_root(name: str, read: Sequence[Annotations]) -> bool:
    """Whether a category is the supercategory of all others, as in Roboflow exports."""
    parents = {
        parent
        for part in read
        for other, parent in zip(part.category_names, part.supercategories, strict=False)
        if other != name and other.strip().lower() not in BACKGROUND
    }
    return parents == {name}


def _config_line(names: Sequence[str], *more: str) -> str:
    """Return a `data.classes` setting with these names, abbreviated if there are many, and further entries."""
    shown = [*map(_quoted, names)]
    if len(names) > MAX_CLASSES:
        shown = [*shown[:2], "...", shown[-1]]
    return f"data.classes=[{', '.join([*shown, *more])}]"


def _quoted(name: str) -> str:
    """Return a name as written in a config."""
    is_plain = _PLAIN.fullmatch(name) and name.lower() not in _YAML_WORDS
    return name if is_plain else json.dumps(name, ensure_ascii=False)
