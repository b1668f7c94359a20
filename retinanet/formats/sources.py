"""Check that the files of a data source exist before slow work starts, without importing torch."""

import os
from collections.abc import Iterable
from pathlib import Path

from retinanet.config import DataSource
from retinanet.errors import InputError


def check_sources(sources: Iterable[DataSource], *, key: str, started_in: Path | None = None) -> None:
    """Check that annotation files and image folders exist.

    Args:
        key: the config key of these sources, for messages.
        started_in: the working directory of the run whose config contains the paths.

    Raises:
        InputError: a file or folder does not exist; the message says what a relative path is relative to.
    """
    for source in sources:
        if not os.path.exists(source.annotations):
            raise InputError(
                f"{source.annotations}: cannot be read: No such file or directory"
                f"{_where(source.annotations, started_in)} set {key}.annotations to an annotation file or folder"
            )
        if source.images is not None and not os.path.isdir(source.images):
            raise InputError(
                f"{key}.images: {source.images} is not a folder{_where(source.images, started_in)} set it to the "
                "folder of the images"
            )


def _where(path: str, started_in: Path | None) -> str:
    """Describe where a relative path was looked up, and where it exists instead."""
    if os.path.isabs(path):
        return ";"
    looked_up = f" (the path is relative to the current folder, {os.getcwd()})"
    if started_in is None or not (started_in / path).exists():
        return f"{looked_up};"
    return f"{looked_up}. It exists in {started_in}, where the run was started: run this command there, or"
