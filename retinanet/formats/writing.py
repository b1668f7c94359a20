"""Shared by the writers of all formats: image names, counts of lost information, and atomic file writes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset

# Counts of lost information by description, such as "crowd regions are not written". All counts are positive.
Losses = dict[str, int]


def image_names(dataset: Dataset) -> tuple[str, ...]:
    """Return the name of each image in annotation files: its path relative to the common image folder, with `/`."""
    absolute = [os.path.abspath(path) for path in dataset.paths]
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return tuple(Path(path).relative_to(root).as_posix() for path in absolute)


def rows_of_files(names: Sequence[str], dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the dataset rows of each image's boxes, keyed by the image name without its suffix.

    The boxes of an image that is listed several times are combined.

    Raises:
        InputError: the names of two images differ only in their suffix, so their annotations would share a file.
    """
    name_of: dict[str, str] = {}
    rows: dict[str, list[np.ndarray]] = {}
    for index, name in enumerate(names):
        stem = os.path.splitext(name)[0]
        if name_of.setdefault(stem, name) != name:
            raise InputError(
                f"{name_of[stem]} and {name}: their annotations would share the file {stem}, but this format has one "
                "annotation file per image; rename one of the images"
            )
        rows.setdefault(stem, []).append(np.arange(dataset.box_start[index], dataset.box_start[index + 1]))
    return {stem: np.concatenate(parts) for stem, parts in rows.items()}


def image_id_losses(dataset: Dataset) -> Losses:
    """Count images whose id is not their 1-based position, for formats without image ids."""
    renumbered = sum(image_id != number for number, image_id in enumerate(dataset.image_ids, start=1))
    return occurring({"image ids are replaced by 1, 2, ...": renumbered})


def area_losses(dataset: Dataset) -> Losses:
    """Count objects whose area differs from that of their box, for formats without areas."""
    of_boxes = dataset.boxes_xywh[:, 2] * dataset.boxes_xywh[:, 3]
    return occurring({"object areas are replaced by box areas": int((dataset.areas != of_boxes).sum())})


def category_id_losses(dataset: Dataset) -> Losses:
    """Count categories whose id is not their 1-based position, for formats without category ids."""
    renumbered = sum(number != given for number, given in enumerate(dataset.category_ids, start=1))
    return occurring({"category ids are replaced by 1, 2, ...": renumbered})


def occurring(losses: Mapping[str, int]) -> Losses:
    """Keep only losses that occur at least once."""
    return {sentence: count for sentence, count in losses.items() if count}


def write_new_files(contents: Mapping[Path, str]) -> None:
    """Write text files, each atomically, and create their folders.

    Raises:
        InputError: one of the files exists, in which case none is written, or a file cannot be written.
    """
    for path in contents:
        if os.path.lexists(path):
            raise InputError(f"{path}: exists and will not be overwritten; choose another folder or remove the file")
    for path, text in contents.items():
        replace_file(path, text)


def replace_file(path: Path, text: str) -> None:
    """Write a text file atomically: readers see either the old file or the complete new one.

    Raises:
        InputError: the file cannot be written.
    """
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(text.encode("utf-8", "surrogateescape"))  # file names need not be UTF-8
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; choose another folder") from None
    except UnicodeEncodeError as error:  # a name from JSON with an unpaired surrogate
        raise InputError(f"{path}: cannot be written as UTF-8: {error}; correct the name") from None
