"""Search for missing images in other places, and describe where they are."""

import os
import shlex
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from retinanet.config.paths import escape_path
from retinanet.formats.image_paths.listing import is_image_name
from retinanet.formats.image_paths.spelling import slashed, spelling_key

MAX_ENTRIES = 500_000  # files and folders that one search visits
SAMPLE = 100  # names that are searched for in other folders
DEPTH_ABOVE = 2  # levels of subfolders to search in folders above the image folder


class FolderWalk:
    """List files below folders, breadth first and each folder once, until `limit` entries have been seen.

    Hidden folders are skipped. Links to folders are followed.
    """

    def __init__(self, limit: int = MAX_ENTRIES) -> None:
        self._left = limit
        self._seen: set[tuple[int, int]] = set()

    def files_below(self, folder: str, *, depth: int | None = None) -> Iterator[str]:
        """Yield paths relative to `folder`, with forward slashes, from at most `depth` levels of folders below it."""
        queue = deque([("", 0)])
        while queue:
            inside, level = queue.popleft()
            for name, is_folder in self._entries(os.path.join(folder, inside)):
                path = f"{inside}/{name}" if inside else name
                if not is_folder:
                    yield path
                elif not name.startswith(".") and (depth is None or level < depth):
                    queue.append((path, level + 1))

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        found: list[tuple[str, bool]] = []
        try:
            status = os.stat(folder)
            identity = status.st_dev, status.st_ino
            if identity in self._seen:  # also ends a cycle of links
                return []
            self._seen.add(identity)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if self._left == 0:
                        break
                    self._left -= 1
                    found.append((entry.name, entry.is_dir()))
        except OSError:  # not readable, or removed in the meantime
            pass
        return sorted(found)


def describe_search(
    folder: str, missing: Sequence[str], files: Collection[str], walk: FolderWalk, *, key: str, all_missing: bool
) -> tuple[str, str]:
    """Search for images by name in an image folder and up to two folders above it.

    Args:
        missing: names of the missing images.
        files: the files below `folder`, relative to it.
        walk: the walk that listed them.
        key: the config key of the source.
        all_missing: whether no image of the source was found, so the folder is probably wrong.

    Returns: two parts of a message, what was found and what to do; empty strings if nothing was found.
    """
    if near := _similar_name(missing, files):
        return near, "correct the file names"
    sample = missing[:SAMPLE]
    elsewhere = ""
    for above, root in enumerate(_folder_and_above(folder)):
        count = _number_in(root, sample)
        if 2 * count >= len(sample):
            found = _Place("", count, is_whole_name=True)
        else:
            found = _vote(sample, files if above == 0 else list(walk.files_below(root, depth=DEPTH_ABOVE)))
        if found is None:
            continue
        place = os.path.normpath(os.path.join(root, found.folder))
        if found.is_whole_name:
            number = _number_in(place, missing) or found.count
            level = ("", ", one folder up", ", two folders up")[above] if not found.folder else ""
            is_whole_set = all_missing and number == len(missing)
            advice = f"set {shlex.quote(f'{key}.images={escape_path(place)}')}" if is_whole_set else ""
            return f"{number} of them are in {place}{level}", advice or f"correct the file names or {key}.images"
        elsewhere = elsewhere or (
            f"files with the base names of {found.count} of the first {len(sample)} are in {place}"
        )
    return elsewhere, f"correct the file names or {key}.images" if elsewhere else ""


def _number_in(folder: str, names: Iterable[str]) -> int:
    return sum(os.path.isfile(os.path.join(folder, slashed(name))) for name in names)


def _similar_name(missing: Sequence[str], files: Iterable[str]) -> str:
    """Describe a missing image and the existing files whose names differ from it only in spelling or extension."""
    name_of_key = {_stem_key(name): name for name in missing}
    candidates: dict[str, list[str]] = {}
    for file in files:
        if (key := _stem_key(file)) in name_of_key:
            candidates.setdefault(key, []).append(file)
    for key, found in candidates.items():
        return f"{name_of_key[key]!r} may be {' or '.join(map(repr, sorted(found)[:3]))}"
    return ""


def _stem_key(name: str) -> str:
    key = spelling_key(name)
    return os.path.splitext(key)[0] if is_image_name(key) else key


class _Place(NamedTuple):
    folder: str
    count: int
    is_whole_name: bool  # the whole name is the same, not only the base name


def _vote(names: Sequence[str], files: Iterable[str]) -> _Place | None:
    """Return the folder that contains the largest number of names; None if it has fewer than half of them."""
    parts_of_name: dict[str, list[list[str]]] = {}
    for name in names:
        parts = spelling_key(name).split("/")
        parts_of_name.setdefault(parts[-1], []).append(parts)
    whole: Counter[str] = Counter()
    base: Counter[str] = Counter()
    for file in files:
        directory, _, last = file.rpartition("/")
        for parts in parts_of_name.get(spelling_key(last), ()):
            base[directory] += 1
            folders = len(parts) - 1
            if spelling_key(file).split("/")[-len(parts) :] == parts:
                whole["/".join(directory.split("/")[:-folders] if folders else [directory])] += 1
    for counter in (whole, base):
        if counter:
            directory, count = min(counter.items(), key=lambda item: (-item[1], item[0].count("/"), item[0]))
            if 2 * count >= len(names):
                return _Place(directory, count, counter is whole)
    return None


def _folder_and_above(folder: str) -> Iterator[str]:
    """Yield the folder and up to two folders above it, but not the home directory or the root."""
    yield folder
    for up in ("..", "../.."):
        above = os.path.normpath(os.path.join(folder, up))
        full = os.path.abspath(above)
        if full in (os.path.expanduser("~"), os.path.dirname(full)):
            return
        yield above
