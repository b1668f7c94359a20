"""Detect data that can be read but is probably wrong, and report the likely cause.

A check reports a problem only if the evidence is strong and other explanations are unlikely.
"""

import filecmp
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from retinanet.formats.annotations import Annotations
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import MAX_EXAMPLES, Finding, shortened

MIN_BOXES = 5  # fewer boxes prove nothing
TOLERANCE = 0.01  # fraction of the image size by which boxes may extend beyond the image
MAX_COMPARED = 100  # pairs of files with the same name and size
MANY, NEARLY_ALL = 0.2, 0.98  # fractions of the boxes


def check_coordinates(read: Annotations, sizes: np.ndarray) -> list[Finding]:
    """Detect boxes whose units or coordinates differ from those that the format specifies.

    Args:
        sizes: (I, 2), height and width of each image.
    """
    objects = ~read.is_crowd
    image_index, boxes = read.image_index[objects], read.boxes_xywh[objects]
    limits = sizes[image_index][:, ::-1].astype(np.float64)  # (M, 2), width and height
    if len(boxes) < MIN_BOXES:
        return []
    if read.is_relative:
        boxes = boxes * np.tile(limits, 2)
    elif (boxes >= 0).all() and (boxes <= 1 + TOLERANCE).all() and (boxes % 1 > 0).any() and (limits > 2).all():
        return [
            Finding(
                "error", "boxes_normalised", read.source,
                "no box is larger than 1 pixel: the numbers look like fractions of the image, as in YOLO files; "
                "multiply them by the width and height of the image, or export the annotations again",
                _examples(read, objects, np.arange(len(boxes))),
            )
        ]  # fmt: skip
    return _check_meaning(read, objects, boxes, limits)


def _check_meaning(read: Annotations, objects: np.ndarray, boxes: np.ndarray, limits: np.ndarray) -> list[Finding]:
    """Compare the number of invalid boxes with what it would be if the numbers had another meaning."""
    first, second = boxes[:, :2], boxes[:, 2:]  # left and top, width and height
    slack = np.maximum(1.0, TOLERANCE * limits)
    leaves: np.ndarray = (first + second > limits + slack).any(axis=1)
    inverted: np.ndarray = (second < 0).any(axis=1)
    # (M,) bool each: whether a box would fit in its image if its last two numbers were the right and bottom edges, ...
    as_corners = ((second > first) & (first >= -slack) & (second <= limits + slack)).all(axis=1)
    as_centres = (first - second / 2 >= -slack) & (first + second / 2 <= limits + slack) & (second > 0)
    # ... or if the numbers given as right and bottom edges were the width and height.
    ends = first + second
    as_sizes = (ends > 0) & (first >= -slack) & (first + ends <= limits + slack)
    as_centres_of_sizes = (ends > 0) & (first - ends / 2 >= -slack) & (first + ends / 2 <= limits + slack)
    area_of_box = second.prod(axis=1)
    agrees = np.abs(read.areas[objects] - area_of_box) <= 0.01 * np.abs(area_of_box)  # false for unknown areas

    def finding(kind: str, found: np.ndarray, problem: str, cause: str) -> list[Finding]:
        count = f"{int(found.sum())} of {len(boxes)} boxes {problem}"
        message = f"{count}, and {cause}; convert the boxes, or export the annotations again"
        return [Finding("error", kind, read.source, message, _examples(read, objects, np.flatnonzero(found)))]

    if _share(leaves) >= MANY and leaves.sum() >= MIN_BOXES and _share(agrees) < 0.5:
        if _share(as_corners) >= NEARLY_ALL:
            return finding(
                "boxes_are_corners", leaves, "extend beyond their image",
                "the numbers look like corners, [x1, y1, x2, y2], expected [x, y, width, height]",
            )  # fmt: skip
    if _share(leaves) >= MANY / 2 and leaves.sum() >= 2 * MIN_BOXES and as_centres.all():
        return finding(
            "boxes_are_centres", leaves, "extend beyond their image",
            "none would if x and y were the box centre; expected the left and top edges",
        )  # fmt: skip
    if _share(inverted) >= MANY and inverted.sum() >= MIN_BOXES:
        for fits, cause in (
            (as_sizes, "x, y, width, height"),
            (as_centres_of_sizes, "centre x, centre y, width, height"),
        ):
            if _share(fits.all(axis=1)) >= NEARLY_ALL:
                return finding(
                    "boxes_are_sizes", inverted, "are inverted",
                    f"the numbers look like {cause}, expected corners, x1, y1, x2, y2",
                )  # fmt: skip
    return []


def check_objects(dataset: Dataset, *, where: str, training: bool) -> list[Finding]:
    """Detect a dataset without objects: an error for a training set, a warning for a validation set."""
    if not dataset.is_crowd.all():
        return []
    found = f"only {len(dataset.is_crowd)} crowd region(s), no objects" if len(dataset.is_crowd) else "no objects"
    if training:
        message = f"{len(dataset)} images with {found}: nothing can be learned; use annotations that have boxes"
        return [Finding("error", "no_objects", where, message)]
    message = f"{len(dataset)} images with {found}: AP cannot be measured"
    return [Finding("warning", "no_objects", where, message)]


def check_repeated_images(paths: Sequence[str], *, where: str) -> list[Finding]:
    """Detect image files that are listed more than once: objects of one entry are background in the others."""
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if not repeated:
        return []
    message = (
        f"{len(repeated)} image file(s) are listed more than once, with different ids: the objects of one entry are "
        "background in the others; use the same image id for all annotations of a file"
    )
    return [Finding("warning", "file_name_twice", where, message, shortened(repeated))]


def check_overlap(train: Dataset, val: Dataset, *, where: str = "data.val") -> list[Finding]:
    """Detect validation images that are also training images: the same file, or a copy with the same name."""
    paths, files = set(train.paths), {_file_id(path) for path in train.paths} - {None}
    copy_of = {os.path.basename(path): path for path in train.paths}
    shared, compared = [], 0
    for path in dict.fromkeys(val.paths):
        is_shared = path in paths or _file_id(path) in files
        if not is_shared and compared < MAX_COMPARED and (other := copy_of.get(os.path.basename(path))):
            is_shared, was_read = _is_copy(path, other)
            compared += was_read
        if is_shared:
            shared.append(path)
    if not shared:
        return []
    count = f"at least {len(shared)}" if compared == MAX_COMPARED else str(len(shared))
    message = (
        f"{count} of {len(val)} validation images are also training images: the scores will be too high; use other "
        "images for validation"
    )
    return [Finding("warning", "val_is_train", where, message, shortened(shared))]


def _is_copy(path: str, other: str) -> tuple[bool, bool]:
    """Return whether two files have the same content, and whether they had to be read to find out."""
    try:
        if os.path.getsize(path) != os.path.getsize(other):
            return False, False
        return filecmp.cmp(path, other, shallow=False), True
    except OSError:
        return False, False


def _file_id(path: str) -> tuple[int, int] | None:
    """Identify a file independently of the path used to reach it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _share(which: np.ndarray) -> float:
    return float(np.mean(which))


def _examples(read: Annotations, objects: np.ndarray, positions: np.ndarray) -> tuple[str, ...]:
    rows = np.flatnonzero(objects)[positions]
    names = [
        f"{read.entry} {read.entry_numbers[row]} of {read.file_names[read.image_index[row]]}, class "
        f"{read.category_names[read.category_index[row]]!r}: {read.boxes_xywh[row].tolist()}"
        for row in rows[:MAX_EXAMPLES].tolist()
    ]
    return shortened(names, len(rows))
