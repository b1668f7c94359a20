"""List the images in a folder, and find the folder that the file names of annotations are relative to."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.splits import usual_name

# Also formats that cannot be decoded: leaving such images out unasked would be worse than the error.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .mpo .heic .heif .avif .jp2 .jxl .dng".split()
)
MAX_PROBED = 20  # file names looked for in each candidate folder


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


def find_image_folder(annotations: str, names: Sequence[str], *, split: str | None, part: str) -> str:
    """Find the folder that file names are relative to, from the place of the annotations.

    The folder is the one in which the first names exist; of several, the one with most of them.

    Args:
        annotations: the annotation file or folder.
        names: file names, as the annotations give them.
        split: the split that the annotations are of; null if they have none.
        part: "train" or "val", for messages.

    Raises:
        InputError: none of the names exists in any of the usual places.
    """
    probed = [name for name in names if not os.path.isabs(name) and ".." not in Path(name).parts][:MAX_PROBED]
    candidates = list(_candidates(Path(annotations), split))
    hits = [sum(os.path.isfile(folder / name) for name in probed) for folder in candidates]
    if probed and max(hits, default=0) == 0:
        tried = ", ".join(str(folder) for folder in candidates)
        raise InputError(
            f"{annotations}: its images are not found: none of {probed[:3]} is in {tried}; set data.{part}.images to "
            "the folder of the images"
        )
    return str(candidates[hits.index(max(hits))])


def _candidates(annotations: Path, split: str | None) -> Iterator[Path]:
    """Existing folders in the usual places: beside the annotations, then one level up."""
    start = annotations if annotations.is_dir() else annotations.parent
    splits = dict.fromkeys(name for name in (split, usual_name(split) if split else None, annotations.stem) if name)
    folders = ["images", "JPEGImages", "imgs", "img", "data"]
    seen = set()
    for base in (start, start.parent):
        places = [base, *(base / name for name in splits)]
        for name in folders:
            places += [*(base / name / split_name for split_name in splits), base / name]
        for place in places:
            if place.is_dir() and place not in seen:
                seen.add(place)
                yield place
