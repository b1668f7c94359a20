"""Datasets that users write: images and objects from a database, an archive or memory."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from retinanet.config.custom import part_name
from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset, ImageRecord, start_of_each

if TYPE_CHECKING:
    from torch import Tensor


class CustomDataset(Protocol):
    """Images and objects that do not come from annotation files.

    Worker processes get a copy of the dataset: forked, or pickled where workers are spawned. Open connections and files
    in `read_image`, not in the constructor: they must not be shared between processes.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the K classes; a label is an index into them."""

    def __len__(self) -> int:
        """Number of images."""

    def image(self, index: int) -> ImageRecord:
        """Return size and ground truth of an image, without reading its pixels. Called once for each image.

        `path` is the name of the image in messages, unique in the dataset. Resuming a run compares these names, so
        they must not change. `boxes` are corners in pixels, which extend at most a pixel beyond the image.
        """

    def read_image(self, index: int) -> "Tensor":
        """Return the pixels of an image, (C, H, W) uint8, in the size of its record; RGB if C is 3.

        C is `model.in_channels`.

        Raises:
            InputError, OSError: the image cannot be read. In training, it is replaced by another one, at most
                `data.max_unreadable` times. Any other exception stops the run.
        """


def as_dataset(custom: "CustomDataset | Dataset") -> Dataset:
    """Convert a user's dataset to the record that the package works with; a `Dataset` is returned unchanged.

    Category ids in results files are labels + 1.

    Raises:
        InputError: a member is missing, or an image is invalid; the message names it.
    """
    if isinstance(custom, Dataset):
        return custom
    name = part_name(custom)
    missing = [
        member for member in ("__len__", "class_names", "image", "read_image") if getattr(custom, member, None) is None
    ]
    if missing or isinstance(custom, type):
        what = f"lacks {', '.join(missing)}" if missing else "is a class, expected an object"
        raise InputError(f"{name}: {what}; see retinanet.formats.custom.CustomDataset")
    class_names = tuple(custom.class_names)
    if not class_names or len(set(class_names)) < len(class_names):
        raise InputError(f"{name}: class_names are {list(class_names)[:10]}, expected at least one, all different")
    records = [
        _checked(custom.image(index), f"{name}: image {index}", len(class_names)) for index in range(len(custom))
    ]
    if not records:
        raise InputError(f"{name}: has no images")
    for field in ("path", "image_id"):
        counts = Counter(getattr(record, field) for record in records)
        if repeated := [value for value, count in counts.items() if count > 1]:
            raise InputError(f"{name}: {field} {repeated[0]!r} occurs more than once; each image needs its own")
    corners = np.concatenate([record.boxes for record in records]).astype(np.float64)
    boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return Dataset(
        paths=tuple(record.path for record in records),
        image_ids=tuple(record.image_id for record in records),
        sizes=np.array([(record.height, record.width) for record in records], dtype=np.int64),
        box_start=start_of_each(np.array([len(record.labels) for record in records])),
        boxes_xywh=boxes_xywh,
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        labels=np.concatenate([record.labels for record in records]).astype(np.int64),
        is_crowd=np.concatenate([record.is_crowd for record in records]).astype(bool),
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        source=custom,
    )


def _checked(record: ImageRecord, where: str, num_classes: int) -> ImageRecord:
    """Check the record of one image, and convert its arrays."""
    if not isinstance(record, ImageRecord):
        raise InputError(f"{where} is {type(record).__name__}, expected a retinanet.formats.dataset.ImageRecord")
    where = f"{where} ({record.path})"
    if record.is_complete is not None:
        raise InputError(f"{where} sets is_complete, which needs a Dataset with `federated`; remove it")
    boxes, labels, is_crowd = (np.asarray(values) for values in (record.boxes, record.labels, record.is_crowd))
    if not len(labels):
        boxes, labels, is_crowd = boxes.reshape(0, 4), labels.astype(np.int64), is_crowd.astype(bool)
    shapes = [boxes.shape, labels.shape, is_crowd.shape]
    if shapes != [(len(labels), 4), (len(labels),), (len(labels),)]:
        raise InputError(f"{where}: boxes, labels and is_crowd are {shapes}, expected (N, 4), (N,) and (N,)")
    if min(record.height, record.width) < 1:
        raise InputError(f"{where}: is {record.width}x{record.height} pixels, expected at least 1x1")
    if not np.issubdtype(labels.dtype, np.integer) or ((labels < 0) | (labels >= num_classes)).any():
        raise InputError(f"{where}: labels are {labels.tolist()[:10]}, expected integers from 0 to {num_classes - 1}")
    limit = np.array([record.width, record.height, record.width, record.height]) + 1
    valid = np.isfinite(boxes).all(1) & (boxes >= -1).all(1) & (boxes <= limit).all(1)
    valid &= (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not valid.all():
        raise InputError(
            f"{where}: box {boxes[~valid][0].tolist()} is not a box in an image of {record.width}x{record.height} "
            "pixels; expected corners (x1, y1, x2, y2) with x1 < x2 and y1 < y2"
        )
    return record._replace(boxes=boxes, labels=labels, is_crowd=is_crowd)
