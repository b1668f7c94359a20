"""Check that a written dataset reads back as the same images and boxes."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.convert import Target
from retinanet.formats.corners import to_corners
from retinanet.formats.dataset import Dataset
from retinanet.formats.read import read_dataset
from retinanet.formats.writing import image_names

WITHOUT_CROWD = ("yolo", "csv", "labelme")  # formats that cannot express crowd regions
WITHOUT_EMPTY = ("open_images",)  # formats that cannot express images without boxes
TOLERANCE = 1e-3  # pixels; widths are rounded in formats that store corners or fractions


def read_back(expected: Dataset, folder: Path, *, to: Target, split: str, images: Path, max_pixels: int) -> Dataset:
    """Read one split of a written dataset, and check that it has the same images and boxes.

    Information that the format cannot express is not compared. Boxes may differ by a thousandth of a pixel.

    Args:
        images: the image folder of the split.

    Raises:
        InputError: they differ; the message names the first image that differs.
    """
    source = DataSource(annotations=str(folder), format=to, split=split)
    with _without_warnings():
        found = read_dataset((source,), expected_names=expected.class_names, max_pixels=max_pixels, key=f"data.{split}")
    before = _by_image(expected, image_names(expected), with_crowd=to not in WITHOUT_CROWD)
    after = _by_image(found, [os.path.relpath(path, images) for path in found.paths], with_crowd=True)
    if to in WITHOUT_EMPTY:
        before = {name: boxes for name, boxes in before.items() if len(boxes)}
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            problem = f"image {name} is missing when read back"
        elif name not in before:
            problem = f"image {name} appears when read back, but is not in the dataset"
        elif not _is_same(before[name], after[name]):
            problem = f"{len(before[name])} boxes of image {name} are read back as {len(after[name])} different boxes"
        else:
            continue
        raise InputError(f"{split}: {problem}, so {to} cannot express this dataset; nothing was written")
    return found


def _by_image(dataset: Dataset, names: Sequence[str], *, with_crowd: bool) -> dict[str, np.ndarray]:
    """Boxes by image: rows of left, top, right, bottom, label and crowd flag, (N, 6)."""
    # Clipped to the image, as YOLO requires; boxes may extend up to a pixel beyond it.
    limits = np.repeat(np.tile(dataset.sizes[:, ::-1], 2), np.diff(dataset.box_start), axis=0)
    corners = np.clip(to_corners(dataset.boxes_xywh), 0, limits)
    table = np.column_stack([corners, dataset.labels, dataset.is_crowd])
    result: dict[str, np.ndarray] = {}
    for index, name in enumerate(names):
        rows = table[dataset.box_start[index] : dataset.box_start[index + 1]]
        rows = rows if with_crowd else rows[rows[:, 5] == 0]
        result[name] = np.concatenate([result[name], rows]) if name in result else rows
    return result


def _is_same(before: np.ndarray, after: np.ndarray) -> bool:
    return before.shape == after.shape and bool((np.abs(before - after) <= TOLERANCE).all())


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings about data that has been read before."""
    log = logging.getLogger("retinanet.formats")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
