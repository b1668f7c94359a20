"""Find the images and videos that a prediction reads: files, folders and glob patterns."""

import glob
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from retinanet.errors import InputError
from retinanet.formats.image_paths.listing import files_in, is_image_name, path_inside
from retinanet.formats.videos.names import is_video_name
from retinanet.prediction.journal import JOURNAL_FILE

log = logging.getLogger(__name__)

WILDCARDS = "*?["
EXPECTED = "expected files such as .jpg, .png, .tif or .mp4"


class Source(NamedTuple):
    """An image or video file, and its name in the results."""

    file: Path
    name: str  # relative to the folder that was given, with `/`; unique among the sources


def find_sources(
    inputs: Sequence[str | Path], *, output: Path, written: Collection[str], recursive: bool = False
) -> list[Source]:
    """Find image and video files, in the order of the inputs; files within a folder are sorted by name.

    Hidden files, folders that an earlier prediction has written, and the output folder are not searched. A file that is
    given twice is used once.

    Args:
        inputs: image or video files, folders, or glob patterns, in which `**` stands for any number of folders.
        output: the output folder of this prediction.
        written: names of the files that earlier predictions have written there, `Journal.names`.
        recursive: search subfolders. A folder that has images and videos only in its subfolders is always searched.

    Raises:
        InputError: an input does not exist, contains no images or videos, or cannot be read.
    """
    found: dict[str, tuple[Path, Path]] = {}  # path and the folder that its name is relative to
    paths_of_ours = {os.path.normcase(os.path.abspath(output / name)) for name in written}

    def is_ours(path: Path) -> bool:  # or in a folder of ours, such as that of the crops
        absolute = Path(os.path.abspath(path))
        return any(os.path.normcase(part) in paths_of_ours for part in (absolute, *absolute.parents))

    for given in inputs:
        for path, root in _files_of(given, output, recursive, is_ours):
            found.setdefault(os.path.normcase(os.path.abspath(path)), (path, root))
    files = list(found.values())
    return [Source(path, name) for (path, _), name in zip(files, _unique_names(files), strict=True)]


def _files_of(
    given: str | Path, output: Path, recursive: bool, is_ours: Callable[[Path], bool]
) -> Iterator[tuple[Path, Path]]:
    """Yield the files of one input, each with the folder that its name is relative to."""
    path = Path(given)
    if path.is_dir():
        names = _images_in(path, output, recursive, is_ours)
        if not names:
            raise InputError(f"{path}: contains no images or videos; {EXPECTED}")
        yield from ((path / name, path) for name in names)
    elif path.exists():
        yield path, path.parent
    elif any(character in str(given) for character in WILDCARDS):
        root = _folder_of_pattern(str(given))
        matches = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]
        files = [match for match in matches if match.is_file() and _is_usable(match.name) and not is_ours(match)]
        files = [file for file in files if not _is_written(file, root, output)]
        if not files:
            raise InputError(f"{given}: matches no image or video; {EXPECTED}")
        yield from ((file, root) for file in files)
    else:
        raise InputError(f"{path}: no such file or folder")


def _images_in(folder: Path, output: Path, recursive: bool, is_ours: Callable[[Path], bool]) -> list[str]:
    """List the images and videos in a folder, relative to it, sorted by name."""
    try:
        directly = sorted(
            entry.name
            for entry in os.scandir(folder)
            if _is_usable(entry.name) and entry.name[0] != "." and entry.is_file() and not is_ours(Path(entry.path))
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}; check its permissions") from None
    below = [
        name
        for name in files_in(folder)
        if "/" in name
        and _is_usable(name)
        and not is_ours(folder / name)
        and not _is_written(folder / name, folder, output)
    ]
    if recursive or not directly:
        if below and not recursive:
            log.info("%s: contains images or videos only in its subfolders, which are searched", folder)
        return sorted(directly + below)
    if below:
        log.info(
            "%s: %d images or videos in its subfolders are not used; to use them, add --recursive", folder, len(below)
        )
    return directly


def _is_usable(name: str) -> bool:
    return is_image_name(name) or is_video_name(name)


def _is_written(file: Path, root: Path, output: Path) -> bool:
    """Whether a file is in the output folder, or in a folder that a prediction has written, below `root`."""
    for folder in file.parents:
        if path_inside(folder, root) in (None, "."):
            return False
        if os.path.abspath(folder) == os.path.abspath(output) or (folder / JOURNAL_FILE).exists():
            return True
    return False


def _folder_of_pattern(pattern: str) -> Path:
    """The part of a pattern before the first wildcard, as a folder."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if any(character in part for character in WILDCARDS))
    return Path(*parts[:fixed])


def _unique_names(files: list[tuple[Path, Path]]) -> list[str]:
    """Name each file relative to its folder, or, if two names would be equal, relative to the common parent folder."""
    names = [path_inside(path, root) or path.name for path, root in files]
    if len({name.casefold() for name in names}) == len(names):
        return names
    absolute = [os.path.abspath(path) for path, _ in files]
    try:
        parent = os.path.commonpath([os.path.dirname(path) for path in absolute])
    except ValueError:  # on several Windows drives
        return [path.replace(":", "").replace(os.sep, "/") for path in absolute]
    return [os.path.relpath(path, parent).replace(os.sep, "/") for path in absolute]
