"""List the images in a folder, and check whether paths are inside a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

# Includes formats that cannot be decoded: an error is better than silently skipping such images.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .mpo .heic .heif .avif .jp2 .jxl .dng".split()
)


def is_image_name(name: str) -> bool:
    """Return whether a file name has an image suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_files(folder: Path) -> list[str]:
    """List images in a folder and its subfolders, relative to it, sorted by name; skip hidden files."""
    return sorted(name for name in files_in(folder) if is_image_name(name))


def files_in(folder: Path) -> Iterator[str]:
    """Yield all files in a folder and its subfolders, relative to it, with `/`; skip hidden files and folder links."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(parent, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        yield from (f"{prefix}{name}" for name in files if not name.startswith("."))


def path_inside(path: str | Path, folder: str | Path) -> str | None:
    """Return a path relative to a folder, with `/`, or None if it is outside; "." is the folder itself.

    Links are not resolved: where they point is the user's choice.
    """
    try:
        relative = os.path.relpath(path, folder).replace(os.sep, "/")
    except ValueError:  # on another Windows drive
        return None
    return None if relative.split("/")[0] == ".." else relative
