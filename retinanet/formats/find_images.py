"""Find the image files that annotations name."""

import os
from collections.abc import Sequence
from pathlib import Path

from retinanet.errors import InputError

MAX_LISTED = 5  # file names shown in a message


def find_images(folder: str, names: Sequence[str], *, source: str, key: str) -> list[str]:
    """Return the path of each image.

    Args:
        folder: the folder that names are relative to.
        names: file names, as the annotations give them.
        source: the annotation file or folder, for messages.
        key: the config key of the source, for messages.

    Raises:
        InputError: an image is missing, or its name leads out of the folder.
    """
    paths = [_inside(Path(folder), name, source) for name in names]
    # os.path.isfile returns False if a name is too long; Path.is_file raises.
    missing = [name for name, path in zip(names, paths, strict=True) if not os.path.isfile(path)]
    if missing:
        raise InputError(
            f"{source}: {len(missing)} of {len(paths)} images are not in {folder}, "
            f"first {missing[:MAX_LISTED]}; correct {key}.images or the file names"
        )
    return [str(path) for path in paths]


def _inside(folder: Path, name: str, source: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{source}: file_name {name!r} points outside {folder}; use paths inside it")
    return folder / name
