"""The in-memory dataset: flat arrays, filled by the reader of each annotation format.

Shape letters: I images, M boxes, K classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from retinanet.errors import InputError
from retinanet.formats.federated import Federated, join

if TYPE_CHECKING:
    from torch import Tensor

    from retinanet.structures import Batch


class ImageSource(Protocol):
    """Images that are not files; see `CustomDataset.read_image`."""

    def read_image(self, index: int) -> "Tensor":
        """Return the pixels of an image, (C, H, W) uint8."""


class ImageRecord(NamedTuple):
    """One image and its ground truth, in pixels of the annotated image."""

    path: str
    image_id: int | str
    height: int
    width: int
    boxes: np.ndarray  # (N, 4) float32, corners
    labels: np.ndarray  # (N,) int64
    is_crowd: np.ndarray  # (N,) bool
    is_complete: np.ndarray | None = None  # (K,) bool: classes whose objects are all annotated; None: all classes


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Images and boxes as flat arrays: the record used by the loader, the sampler and evaluation.

    Images are addressed by index, 0..I-1, and classes by label, 0..K-1. Training and evaluation use the same boxes:
    neither sees boxes that a reader dropped. Boxes may extend up to a pixel beyond the image, because annotation tools
    round coordinates. Evaluation uses the exact coordinates; training uses corners clipped to the image (`boxes`).
    """

    paths: tuple[str, ...]  # I paths of image files
    image_ids: tuple[int | str, ...]  # I unique ids, for results files
    sizes: np.ndarray  # (I, 2) int64, height and width
    box_start: np.ndarray  # (I + 1,) int64: image i has boxes box_start[i]:box_start[i + 1]
    boxes_xywh: np.ndarray  # (M, 4) float64: left, top, width, height
    areas: np.ndarray  # (M,) float64: the area in the file (for example, of a mask), otherwise width * height
    labels: np.ndarray  # (M,) int64
    is_crowd: np.ndarray  # (M,) bool
    class_names: tuple[str, ...]  # K
    category_ids: tuple[int, ...]  # K category ids, for results files
    federated: Federated | None = None  # verified labels of each image; None: all labels are annotated
    source: ImageSource | None = None  # where images are read from; None: from files at `paths`
    source_rows: np.ndarray | None = None  # (I,) int64: index of each image in `source`; None: its own index

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    @cached_property
    def boxes(self) -> np.ndarray:
        """Corners of the boxes, clipped to their images: (M, 4) float32."""
        corners = self.boxes_xywh.copy()
        corners[:, 2:] += corners[:, :2]
        height, width = np.repeat(self.sizes, np.diff(self.box_start), axis=0).T
        limits = np.stack([width, height, width, height], axis=1)
        return np.clip(corners, 0, limits).astype(np.float32)

    def image(self, index: int) -> ImageRecord:
        """Return one image; its arrays are views into the dataset."""
        height, width = self.sizes[index].tolist()
        rows = slice(self.box_start[index], self.box_start[index + 1])
        labels = self.labels[rows]
        is_complete = None
        if self.federated is not None:
            is_complete = self.federated.complete_labels(index, labels, num_classes=len(self.class_names))
        return ImageRecord(
            path=self.paths[index],
            image_id=self.image_ids[index],
            height=height,
            width=width,
            boxes=self.boxes[rows],
            labels=labels,
            is_crowd=self.is_crowd[rows],
            is_complete=is_complete,
        )

    def read_image(self, index: int, *, channels: int) -> "Tensor":
        """Read an image from `source`, which must not be None.

        Raises:
            InputError: the image cannot be read, or is not (channels, H, W) uint8 with the size of its record.
        """
        assert self.source is not None
        (height, width), path = self.sizes[index].tolist(), self.paths[index]
        try:
            pixels = self.source.read_image(index if self.source_rows is None else int(self.source_rows[index]))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        found = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {tuple(getattr(pixels, 'shape', ()))}"
        if found != f"torch.uint8 {(channels, height, width)}":
            expected = f"torch.uint8 {(channels, height, width)} with {channels} channels (model.in_channels)"
            raise InputError(f"{path}: read_image returned {found}, expected {expected}")
        return pixels

    def image_ids_of(self, batches: Iterable["Batch"]) -> list[int | str]:
        """Ids of the images in the given batches, in order."""
        return [self.image_ids[index] for batch in batches for index in batch.image_indices]

    def object_counts(self) -> list[int]:
        """Number of objects per class, excluding crowd regions."""
        return np.bincount(self.labels[~self.is_crowd], minlength=len(self.class_names)).tolist()

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """Return a dataset of the images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        rows, box_start = _rows_of(self.box_start, chosen)
        return replace(
            self,
            paths=tuple(self.paths[index] for index in chosen.tolist()),
            image_ids=tuple(self.image_ids[index] for index in chosen.tolist()),
            sizes=self.sizes[chosen],
            box_start=box_start,
            boxes_xywh=self.boxes_xywh[rows],
            areas=self.areas[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            federated=None if self.federated is None else self.federated.subset(chosen, len(self)),
            source_rows=chosen if self.source_rows is None else self.source_rows[chosen],
        )

    def first(self, count: int) -> "Dataset":
        """Return a dataset of the first `count` images, or of all images if there are fewer."""
        return self.subset(range(min(count, len(self))))


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """Join datasets that have the same classes; images are renumbered from 1 because their ids may collide."""
    first = datasets[0]
    assert all(dataset.class_names == first.class_names and dataset.source is None for dataset in datasets)
    paths = tuple(path for dataset in datasets for path in dataset.paths)
    return replace(
        first,
        paths=paths,
        image_ids=tuple(range(1, len(paths) + 1)),
        sizes=np.concatenate([dataset.sizes for dataset in datasets]),
        box_start=start_of_each(np.concatenate([np.diff(dataset.box_start) for dataset in datasets])),
        boxes_xywh=np.concatenate([dataset.boxes_xywh for dataset in datasets]),
        areas=np.concatenate([dataset.areas for dataset in datasets]),
        labels=np.concatenate([dataset.labels for dataset in datasets]),
        is_crowd=np.concatenate([dataset.is_crowd for dataset in datasets]),
        source_rows=None,
        federated=join([(dataset.federated, len(dataset)) for dataset in datasets]),
    )


def start_of_each(counts: np.ndarray) -> np.ndarray:
    """Convert row counts per image (I,) to the first row of each image, followed by the total (I + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _rows_of(start: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated row indices of the given images, and the new start of each image."""
    counts = start[images + 1] - start[images]
    new_start = start_of_each(counts)
    # If row r of the result belongs to the image at position p, it is row r - new_start[p] of that image.
    rows = np.arange(new_start[-1]) + np.repeat(start[images] - new_start[:-1], counts)
    return rows, new_start
