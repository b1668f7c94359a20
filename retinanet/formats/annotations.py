"""The content of one annotation source as flat arrays; the readers of all formats return this record.

The values are not checked against the image files or the config; `read.py` does that for all formats.
Shape letters: I images, M boxes, C categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from retinanet.formats.federated import Federated
from retinanet.formats.findings import Finding

RELATIVE_DIGITS = 6  # decimal places of a pixel kept when relative boxes are converted to pixels


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """Images, boxes and categories of one source, in its own order.

    Attributes:
        source: the annotation file or folder, for messages.
        image_folder: the folder that file names are relative to; None if the source does not state it.
        file_names: I names, as written in the source.
        image_ids: I unique ids; None if the format has none; images are then numbered from 1.
        sizes: (I, 2) int64, height and width in pixels; 0 where the source does not state them.
        image_index: (M,) int64, the image of each box.
        boxes_xywh: (M, 4) float64, finite: left, top, width, height, in pixels, or in fractions of the image if
            `is_relative`.
        areas: (M,) float64, the object's area in square pixels; NaN where the source does not state it.
        category_index: (M,) int64 into the categories.
        is_crowd: (M,) bool, regions that are neither objects nor background.
        entry: the word for a record of the source in messages, such as "annotation" or "line".
        entry_numbers: (M,) int64, the number of each box's record, shown after `entry`.
        category_names: C unique names, in the order of the classes.
        category_ids: C unique ids; None if the format has none; categories are then numbered from 1.
        supercategories: C names, "" for none; or empty if the format has none.
        federated: per image, the categories that are verified to be absent or incompletely annotated; None if all
            objects of all categories are annotated.
        findings: problems that the reader repaired or noticed; never errors.
    """

    source: str
    image_folder: str | None
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
    federated: Federated | None = None
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.file_names)

    def subset(self, images: Sequence[int]) -> "Annotations":
        """Return the given images and their boxes, in that order."""
        new_index = np.full(len(self), -1, dtype=np.int64)
        new_index[images] = np.arange(len(images))
        rows = np.flatnonzero(new_index[self.image_index] >= 0)
        return replace(
            self,
            file_names=tuple(self.file_names[index] for index in images),
            image_ids=None if self.image_ids is None else tuple(self.image_ids[index] for index in images),
            sizes=self.sizes[images],
            image_index=new_index[self.image_index[rows]],
            boxes_xywh=self.boxes_xywh[rows],
            areas=self.areas[rows],
            category_index=self.category_index[rows],
            is_crowd=self.is_crowd[rows],
            entry_numbers=self.entry_numbers[rows],
            federated=None if self.federated is None else self.federated.subset(images, len(self)),
        )
