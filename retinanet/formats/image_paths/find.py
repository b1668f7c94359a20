"""Find the image files named in annotations."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from retinanet.errors import InputError
from retinanet.formats.findings import Finding
from retinanet.formats.image_paths.listing import path_inside
from retinanet.formats.image_paths.search import FolderWalk, describe_search
from retinanet.formats.image_paths.spelling import Repair, repair_names, slashed

MAX_LISTED = 5  # file names shown in a message
FEW = 100  # names per folder to look up one by one; for more, listing the folder is faster


class FoundImages(NamedTuple):
    """Paths of images, and findings about them."""

    paths: list[str | None]  # None: the image is missing or must not be used
    findings: list[Finding]


def find_images(
    folder: str,
    names: Sequence[str],
    *,
    source: str,
    key: str,
    skip_missing: bool = False,
    allow_outside: bool = False,
) -> FoundImages:
    """Find the file of each image. A finding reports missing images: an error, or a warning if they are skipped.

    Names whose files are only spelt differently, such as `a\\1.png` or `A/1.PNG` for `a/1.png`, are matched by one rule
    for the whole source, with a warning. Files outside the folder are never matched this way.

    Args:
        folder: the folder that names are relative to.
        names: file names, as written in the annotations.
        source: the annotation file or folder, for messages.
        key: the config key of the source, for messages.
        skip_missing: skip images that do not exist, unless more than half of them are missing.
        allow_outside: use names that point outside the folder: absolute paths, or paths with `..`.

    Raises:
        InputError: a name points outside the folder.
    """
    path_of = _paths(folder, names, allow_outside=allow_outside)
    existing = existing_files(path for path in path_of.values() if path is not None)
    missing = [name for name, path in path_of.items() if path not in existing]
    findings: list[Finding] = []
    if missing:
        outside = [name for name in missing if path_of[name] is None and os.path.isfile(os.path.join(folder, name))]
        if outside:
            raise InputError(
                f"{source}: {len(outside)} file name(s) point outside {folder}, first {outside[:MAX_LISTED]}; use "
                "paths inside it, or set data.allow_outside_paths=true if you trust the file"
            )
        walk = FolderWalk()
        files = list(walk.files_below(folder))
        start = len(os.path.join(folder, ""))
        repair = repair_names(missing, files, used={slashed(path[start:]) for path in existing})
        path_of |= dict.fromkeys(missing)
        path_of |= {name: os.path.join(folder, file) for name, file in repair.found.items()}
        findings += _repaired(repair, folder, source)
        if left := [name for name in missing if path_of[name] is None]:
            found = describe_search(folder, left, files, walk, key=key, all_missing=len(left) == len(path_of))
            paths = [path_of[name] for name in names]
            findings.append(_missing(folder, paths, left, found, source=source, key=key, skip=skip_missing))
    return FoundImages([path_of[name] for name in names], findings)


def _paths(folder: str, names: Iterable[str], *, allow_outside: bool) -> dict[str, str | None]:
    """Return the path of each name; None if it is outside the folder, unless `allow_outside`. Links are trusted."""
    roots = [os.path.abspath(folder), os.path.realpath(folder)]
    start = os.path.join(folder, "")
    paths: dict[str, str | None] = {}
    for name in names:
        path: str | None = start + name
        if os.path.isabs(name) or ".." in name:
            inside = [path_inside(os.path.join(roots[0], name), root) for root in roots]
            found = next((relative for relative in inside if relative is not None), None)
            path = start + found if found is not None else os.path.join(folder, name) if allow_outside else None
        paths[name] = path
    return paths


def existing_files(paths: Iterable[str]) -> set[str]:
    """Return the paths that are files."""
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        by_folder.setdefault(os.path.split(path)[0], []).append(path)
    existing: set[str] = set()
    for folder, inside in by_folder.items():
        if len(inside) > FEW:
            files = _files_in(folder)
            existing.update(path for path in inside if os.path.basename(path) in files)
        # Some file systems ignore case. If a name is too long, os.path.isfile returns False and Path.is_file raises.
        existing.update(path for path in inside if path not in existing and os.path.isfile(path))
    return existing


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _repaired(repair: Repair, folder: str, source: str) -> list[Finding]:
    if not repair.found:
        return []
    name, file = next(iter(repair.found.items()))
    message = (
        f"{len(repair.found)} file name(s) differ from the files in {folder} by {repair.difference}; these files are "
        f"used, such as {file!r} for {name!r}"
    )
    return [Finding("warning", "file_name_spelling", source, message)]


def _missing(
    folder: str,
    paths: Sequence[str | None],
    missing: Sequence[str],
    found: tuple[str, str],
    *,
    source: str,
    key: str,
    skip: bool,
) -> Finding:
    number = sum(path is None for path in paths)
    where, advice = found
    text = f"{number} of {len(paths)} images are not in {folder}, first {list(missing[:MAX_LISTED])}"
    text += f"; {where}" if where else ""
    advice = advice or f"correct {key}.images or the file names"
    return missing_images(text, advice, number, len(paths), source=source, key=key, skip=skip)


def missing_images(text: str, advice: str, number: int, total: int, *, source: str, key: str, skip: bool) -> Finding:
    """Report that `number` of `total` images are missing: an error, or a warning if they may be skipped.

    Args:
        text: what is missing.
        advice: what to do about it.
        source, key, skip: as in `find_images`.
    """
    if not skip:
        way_out = "" if number == total else ", or skip these images with data.missing_images=skip"
        return Finding("error", "missing_images", source, f"{text}; {advice}{way_out}")
    if 2 * number > total:
        limit = "data.missing_images=skip never skips more than half of the images"
        return Finding("error", "missing_images", source, f"{text}; {advice}. {limit}")
    remaining = total - number
    left = f"the other {remaining} are scored" if key == "data.val" else f"{remaining} remain"
    return Finding("warning", "missing_images", source, f"{text}; skipped (data.missing_images: skip), {left}")
