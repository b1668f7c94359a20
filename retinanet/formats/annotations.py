"""The content of one annotation source as flat arrays: what the reader of each format returns.

Nothing here is checked against the image files or the config; `read.py` does that once for all formats.
Shape letters: I images, M boxes, C categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retinanet.formats.findings import Finding


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """Images, boxes and categories of one source, in its own order.

    Attributes:
        source: the annotation file or folder, for messages.
        image_folder: the folder that file names are relative to.
        file_names: I names, as the source gives them.
        image_ids: I unique ids; None if the format has none. Images are then numbered from 1.
        sizes: (I, 2) int64, height and width in pixels; 0 where the source does not give them.
        image_index: (M,) int64, the image of each box.
        boxes_xywh: (M, 4) float64, finite: left, top, width, height, in pixels, or in fractions of the image if
            `is_relative`.
        areas: (M,) float64, the object's area in square pixels; NaN where the source does not give it.
        category_index: (M,) int64 into the categories.
        is_crowd: (M,) bool, regions that are neither objects nor background.
        entry: what messages call the source of a box, such as "annotation" or "line"; `entry_numbers` follow it.
        entry_numbers: (M,) int64.
        category_names: C unique names, in the order of the classes.
        category_ids: C unique ids; None if the format has none. Categories are then numbered from 1.
        supercategories: C names, "" for none; or empty if the format has none.
        findings: what the reader repaired or noticed; no errors.
    """

    source: str
    image_folder: str
    file_names: Sequence[str]
    image_ids: Sequence[int | str] | None
    sizes: np.ndarray
    image_index: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    category_index: np.ndarray
    is_crowd: np.ndarray
    entry: str
    entry_numbers: np.ndarray
    category_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    is_relative: bool = False
    supercategories: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.file_names)
