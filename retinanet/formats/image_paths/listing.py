"""List the images in a folder, and check whether paths are inside a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

# Also formats that cannot be decoded: leaving such images out unasked would be worse than the error.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .mpo .heic .heif .avif .jp2 .jxl .dng".split()
)


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_files(folder: Path) -> list[str]:
    """Images in a folder and its subfolders, relative to it, in the order of their names; hidden files are skipped."""
    return sorted(name for name in files_in(folder) if is_image_name(name))


def files_in(folder: Path) -> Iterator[str]:
    """All files in a folder and its subfolders, relative to it, with `/`; skips hidden ones and links to folders."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(parent, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        yield from (f"{prefix}{name}" for name in files if not name.startswith("."))


def path_inside(path: str | Path, folder: str | Path) -> str | None:
    """A path relative to a folder, with `/`, or None if it is outside the folder; "." is the folder itself.

    Links are not resolved: what they lead to is the user's choice.
    """
    try:
        relative = os.path.relpath(path, folder).replace(os.sep, "/")
    except ValueError:  # on another drive of Windows
        return None
    return None if relative.split("/")[0] == ".." else relative
