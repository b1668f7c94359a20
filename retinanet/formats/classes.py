"""Class selection: map the category names in annotation files to labels."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from retinanet.config import MergedClass
from retinanet.errors import InputError
from retinanet.formats.findings import Finding

MAX_LISTED = 5  # names shown in a message


class Classes(NamedTuple):
    """Class names by label, and the label of each category name."""

    names: tuple[str, ...]
    label_of: dict[str, int]  # ordered by label
    findings: tuple[Finding, ...] = ()


class Categories(NamedTuple):
    """Category names of one annotation file."""

    file: str
    names: tuple[str, ...]  # in the file's own order


def choose_classes(
    files: Sequence[Categories],
    *,
    classes: tuple[str | MergedClass, ...] | None,
    expected_names: tuple[str, ...] | None,
    key: str,
) -> Classes:
    """Select classes from the categories of one or more files.

    Args:
        files: the categories of each annotation file, at least one.
        classes: categories to use or merge, in label order. None selects all categories, in the order of
            `expected_names` or, without it, of the first file.
        expected_names: required class names, such as those of a trained model. A file may lack some of these
            categories, because exporters omit unused ones; this is reported as a finding.
        key: the config key of these files, for messages.

    Raises:
        InputError: an unknown or repeated class, or files whose categories do not match.
    """
    if classes is None:
        names = expected_names or files[0].names
        groups = {name: (name,) for name in names}
        for categories in files:
            _check_same_names(names, categories, key, may_lack=expected_names is not None)
    else:
        groups = dict((c, (c,)) if isinstance(c, str) else (c.name, c.merge) for c in classes)
        if len(groups) != len(classes):
            raise InputError(f"data.classes: duplicate class in {list(classes)}")
        for categories in files:
            if expected_names is None:
                for members in groups.values():
                    _check_known(members, categories)
        if expected_names is not None and tuple(groups) != expected_names:
            raise InputError(
                f"data.classes: defines {list(groups)}, but the model was trained for {list(expected_names)}"
            )
    label_of: dict[str, int] = {}
    for label, members in enumerate(groups.values()):
        for member in members:
            if member in label_of:
                raise InputError(f"data.classes: {member!r} is in two classes; an annotation can have only one label")
            label_of[member] = label
    lacking = [_lacking(tuple(label_of), categories, key) for categories in files] if expected_names else []
    return Classes(tuple(groups), label_of, tuple(finding for findings in lacking for finding in findings))


def _check_same_names(names: tuple[str, ...], categories: Categories, key: str, *, may_lack: bool) -> None:
    missing, extra = sorted(set(names) - set(categories.names)), sorted(set(categories.names) - set(names))
    if not extra and (may_lack or not missing):
        return
    raise InputError(
        f"{key}: the categories of {categories.file} do not match the classes {list(names)[:MAX_LISTED]}"
        f"{'...' if len(names) > MAX_LISTED else ''}: missing {missing[:MAX_LISTED]}, "
        f"unexpected {extra[:MAX_LISTED]}; select the classes to use with data.classes"
    )


def _lacking(names: tuple[str, ...], categories: Categories, key: str) -> list[Finding]:
    missing = [name for name in names if name not in categories.names]
    if len(missing) == len(names):
        raise InputError(
            f"{key}: {categories.file} has none of the categories {list(names[:MAX_LISTED])}; it has "
            f"{list(categories.names[: 2 * MAX_LISTED])}"
        )
    if not missing:
        return []
    listed = ", ".join(missing[:MAX_LISTED]) + (", ..." if len(missing) > MAX_LISTED else "")
    message = f"lacks {len(missing)} of {len(names)} categories: {listed}"
    return [Finding("warning", "lacks_categories", categories.file, message)]


def _check_known(members: tuple[str, ...], categories: Categories) -> None:
    for member in members:
        if member not in categories.names:
            near = difflib.get_close_matches(member, categories.names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {list(categories.names[: 2 * MAX_LISTED])}"
            raise InputError(f"data.classes: {member!r} is not a category of {categories.file}; {hint}")
