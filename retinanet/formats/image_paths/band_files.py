"""Find the other files of images whose bands are in several files (`data.band_files`)."""

import functools
import os
import re
from collections.abc import Sequence

from retinanet.config.band_files import PLACEHOLDER
from retinanet.errors import InputError
from retinanet.formats.findings import Finding
from retinanet.formats.image_paths.find import FoundImages, existing_files, missing_images


def band_paths(path: str | os.PathLike[str], patterns: Sequence[str]) -> list[str]:
    """Return the paths of all files of an image, in the order of the patterns; the first is the annotated file.

    The first pattern must match the end of the path. A placeholder stands for the same text in all patterns, without
    slashes: a file name can therefore only lead to the folders that the patterns name.

    Raises:
        InputError: the path does not match the first pattern.
    """
    annotated = os.fspath(path)
    others = _other_files(annotated, patterns)
    if others is None:
        raise InputError(
            f"{annotated}: does not match {patterns[0]!r}, the first pattern of data.band_files; make it the pattern "
            "of the annotated files"
        )
    return [annotated, *others]


def annotated_files(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the paths that are images of their own, not further files of another image in the list."""
    further = {other for path in paths for other in _other_files(path, patterns) or ()}
    return [path for path in paths if os.path.normpath(path) not in further]


def find_band_files(
    paths: Sequence[str | None], patterns: Sequence[str], *, source: str, key: str, skip_missing: bool
) -> FoundImages:
    """Check that all files of each image exist. An image without one of them is missing, as in `find_images`.

    Further files of an image that are listed as images themselves, as in a YOLO folder, are skipped with a note.

    Args:
        paths: annotated files; None is an image that is already known to be missing.
        patterns: `data.band_files`.
        source, key, skip_missing: as in `find_images`.

    Raises:
        InputError: an annotated file does not match the first pattern.
    """
    present = [path for path in paths if path is not None]
    own = set(annotated_files(present, patterns))
    others = {path: band_paths(path, patterns)[1:] for path in own}
    existing = existing_files(other for found in others.values() for other in found)
    lacking = {path: next((other for other in found if other not in existing), None) for path, found in others.items()}
    findings: list[Finding] = []
    images = [path for path in present if path in own]
    if count := len(present) - len(images):
        message = f"{count} file(s) are bands of other images (data.band_files) and not images of their own"
        findings.append(Finding("note", "band_files", source, message))
    kept = [path if path in own and lacking[path] is None else None for path in paths]
    if missing := [file for path in dict.fromkeys(images) if (file := lacking[path])]:
        number, total = sum(1 for path in images if lacking[path]), len(images)
        text = f"{number} of {total} images lack a file of data.band_files, first {missing[:5]}"
        advice = "restore the files, or correct data.band_files"
        findings.append(missing_images(text, advice, number, total, source=source, key=key, skip=skip_missing))
    return FoundImages(kept, findings)


def _other_files(path: str, patterns: Sequence[str]) -> list[str] | None:
    """Return the further files of an image, normalised; None if its path does not match the first pattern."""
    values = _match(path, patterns[0])
    if values is None:
        return None
    folder = _folder_above(path, patterns[0])
    others = (PLACEHOLDER.sub(lambda found: values[found[1]], pattern) for pattern in patterns[1:])
    return [os.path.normpath(os.path.join(folder, other)) for other in others]


def _match(path: str, pattern: str) -> dict[str, str] | None:
    """Match a pattern with the end of a path; return the text of each placeholder."""
    depth = pattern.count("/") + 1
    tail = "/".join(_absolute_if_short(path, depth).split(os.sep)[-depth:])
    found = _expression(pattern).fullmatch(tail)
    values = found.groupdict() if found else None
    return None if values is None or {".", ".."} & set(values.values()) else values


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    parts, position, seen = [], 0, set()
    for found in PLACEHOLDER.finditer(pattern):
        parts.append(re.escape(pattern[position : found.start()]))
        parts.append(f"(?P={found[1]})" if found[1] in seen else f"(?P<{found[1]}>[^/]+)")
        seen.add(found[1])
        position = found.end()
    return re.compile("".join([*parts, re.escape(pattern[position:])]), re.DOTALL)


def _folder_above(path: str, pattern: str) -> str:
    """Return the folder that the patterns are relative to."""
    folder = _absolute_if_short(path, pattern.count("/") + 1)
    for _ in range(pattern.count("/") + 1):
        folder = os.path.dirname(folder)
    return folder


def _absolute_if_short(path: str, depth: int) -> str:
    return path if len(path.split(os.sep)) >= depth else os.path.abspath(path)
