"""Repairs for misplaced detections: reassigned images, another box format, another coordinate frame.

`trials` tests whether a repair helps. Shape letters: D detections, N objects, I images.
"""

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from retinanet.evaluation.detection_table import DetectionTable
from retinanet.formats.dataset import Dataset

# From corners (D, 4) and image sizes (D, 2), as (height, width), to repaired corners (D, 4).
_Corners = Callable[[np.ndarray, np.ndarray], np.ndarray]
# From image sizes (D, 2) to the width, height, width and height of a frame (D, 4).
_Frame = Callable[[np.ndarray], np.ndarray]

# Number of detections and objects per image that are compared to estimate a scale.
_PER_IMAGE = 10
# A detection and an object vote for a scale if the four ratios of their positions and sizes agree: the standard
# deviation of the logarithms is below this.
_MAX_SPREAD = 0.2
_BIN = 0.05  # width of a bin of votes, in the logarithm of the scale

_FORMAT_REMEDY = (
    "Convert the boxes to corners (x1, y1, x2, y2) in pixels, or to (left, top, width, height) in a COCO results file. "
    "If the detections are right, check how the annotations were converted."
)
_SCALE_REMEDY = (
    "Convert the boxes to pixels of the original image: divide them by the factor of the resize. If the detections are "
    "right, check the boxes and image sizes in the annotation file."
)
_SYMMETRY_REMEDY = (
    "Undo the flip, rotation or swap before storing detections. A photo may have an EXIF orientation: the annotation "
    "tool and the program that reads the images must handle it in the same way."
)


class ImageRepair(NamedTuple):
    """A repair that gives each image the detections of another one."""

    finding: str  # completes "AP rises if ..."
    source: np.ndarray  # (I,) int64: the image whose detections this image gets, or -1
    cause: str = "detections belong to other images"
    remedy: str = (
        "Compare the image ids of the detections with those in the annotation file. Ids that were renumbered, from 0 "
        "or 1 or in another order, do not identify the same images."
    )


class BoxRepair(NamedTuple):
    """A repair that changes the boxes of all detections."""

    cause: str
    finding: str  # completes "AP rises if ..."
    remedy: str
    corners: _Corners

    def apply(self, boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Repair boxes (D, 4) in images of the given sizes (D, 2); the result has no negative width or height."""
        corners = self.corners(_from_width_height(boxes_xywh, sizes), sizes.astype(np.float64))
        low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
        return np.concatenate([low, high - low], axis=1)


def image_repairs(dataset: Dataset) -> Iterator[ImageRepair]:
    """Yield shifts by one image and mappings between two orders of the images, without duplicates."""
    ids, rows = dataset.image_ids, range(len(dataset))
    in_dataset = np.arange(len(dataset))
    by_id = np.array(sorted(rows, key=lambda row: (isinstance(ids[row], str), ids[row])), np.int64)
    orders = {
        "dataset": in_dataset,
        "image ids": by_id,
        "image ids as text": np.array(sorted(rows, key=lambda row: str(ids[row])), np.int64),
        "file names": np.array(sorted(rows, key=lambda row: dataset.paths[row]), np.int64),
        "reversed dataset": in_dataset[::-1],
    }
    seen = {in_dataset.tobytes()}
    for name in ("dataset", "image ids"):
        for neighbour, start, stop in (("next", 1, len(dataset)), ("previous", 0, len(dataset) - 1)):
            source = np.full(len(dataset), -1)
            source[orders[name][1 - start : len(dataset) - start]] = orders[name][start:stop]
            if source.tobytes() not in seen:
                seen.add(source.tobytes())
                finding = f"each image gets the detections of the {neighbour} one in the order of the {name}"
                yield ImageRepair(finding, source)
    for (name, order), (other_name, other_order) in permutations(orders.items(), 2):
        source = np.empty(len(dataset), np.int64)
        source[order] = other_order
        if source.tobytes() not in seen:
            seen.add(source.tobytes())
            finding = f"detections in the order of the {other_name} are assigned to images in the order of the {name}"
            yield ImageRepair(finding, source)


def box_repairs(dataset: Dataset, table: DetectionTable) -> Iterator[BoxRepair]:
    """Yield changes of the coordinate frame, the box format and the axes, the simplest first.

    Args:
        table: sorted by image index, to estimate the scale of the frame.
    """
    yield from sorted(_frames(dataset, table), key=lambda repair: "normalised" not in repair.cause)
    for cause, finding, corners in _FORMATS:
        yield BoxRepair(cause, finding, _FORMAT_REMEDY, corners)
        yield BoxRepair(
            f"{cause}, and are normalised to 0..1",
            f"they are multiplied by the width and height of the image, and {finding}",
            _FORMAT_REMEDY,
            lambda boxes, sizes, corners=corners: corners(boxes * _stretched(sizes), sizes),  # type: ignore[misc]
        )
    for swap, flip_x, flip_y, cause, finding in _SYMMETRIES:
        yield BoxRepair(cause, finding, _SYMMETRY_REMEDY, _symmetry(swap, flip_x, flip_y))


def _from_width_height(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _to_width_height(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_centre(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def _from_centre_as_corner(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return _from_centre(_to_width_height(boxes, sizes), sizes)


_FORMATS: tuple[tuple[str, str, _Corners], ...] = (
    (
        "boxes contain a width and height instead of the second corner",
        "(x1, y1, x2, y2) is read as (left, top, width, height)",
        _from_width_height,
    ),
    (
        "boxes contain the second corner instead of a width and height",
        "(left, top, width, height) is read as (x1, y1, x2, y2)",
        _to_width_height,
    ),
    (
        "boxes contain a centre, a width and a height instead of two corners",
        "(x1, y1, x2, y2) is read as (centre x, centre y, width, height)",
        _from_centre,
    ),
    (
        "boxes contain their centre instead of the top left corner",
        "(left, top, width, height) is read as (centre x, centre y, width, height)",
        _from_centre_as_corner,
    ),
)

# Whether x and y are swapped first, and whether the result is flipped: all symmetries of a square except the identity.
_SYMMETRIES = (
    (True, False, False, "x and y are swapped", "x and y are swapped back"),
    (False, True, False, "boxes are flipped horizontally", "they are flipped back"),
    (False, False, True, "boxes are flipped vertically", "they are flipped back"),
    (False, True, True, "boxes are rotated by 180 degrees", "they are rotated back"),
    (True, True, False, "boxes are rotated by 90 degrees", "they are rotated clockwise"),
    (True, False, True, "boxes are rotated by 90 degrees", "they are rotated counterclockwise"),
    (True, True, True, "boxes are mirrored along a diagonal", "they are mirrored back"),
)


def _symmetry(swap: bool, flip_x: bool, flip_y: bool) -> _Corners:
    def corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        boxes = boxes[:, [1, 0, 3, 2]] if swap else boxes.copy()
        if flip_x:
            boxes[:, [0, 2]] = sizes[:, 1:] - boxes[:, [2, 0]]
        if flip_y:
            boxes[:, [1, 3]] = sizes[:, :1] - boxes[:, [3, 1]]
        return boxes

    return corners


def _unscaled(sizes: np.ndarray) -> np.ndarray:
    return np.ones((len(sizes), 4))


def _shorter(sizes: np.ndarray) -> np.ndarray:
    return np.repeat(sizes.min(axis=1, keepdims=True), 4, axis=1)


def _longer(sizes: np.ndarray) -> np.ndarray:
    return np.repeat(sizes.max(axis=1, keepdims=True), 4, axis=1)


def _stretched(sizes: np.ndarray) -> np.ndarray:
    return sizes[:, [1, 0, 1, 0]]


def _frames(dataset: Dataset, table: DetectionTable) -> Iterator[BoxRepair]:
    """Yield one frame of each kind, with its scale estimated from the detections."""
    kinds: tuple[tuple[_Frame, str, str], ...] = (
        (_unscaled, "boxes are scaled by about {:.2g}", "they are divided by {:.3g}"),
        (
            _shorter,
            "boxes are in pixels of resized images",
            "they are scaled from a shorter side of about {:.0f} pixels",
        ),
        (_longer, "boxes are in pixels of resized images", "they are scaled from a longer side of about {:.0f} pixels"),
        (_stretched, "boxes are in pixels of stretched images", "they are scaled from about {0:.0f} x {0:.0f} pixels"),
    )
    for frame, cause, finding in kinds:
        side = _voted_scale(dataset, table, frame)
        if side is None or (frame is _unscaled and abs(np.log(side)) < _BIN):
            continue
        if frame is _stretched and abs(np.log(side)) < _BIN:
            cause, finding = "boxes are normalised to 0..1", "they are multiplied by the width and height of the image"
            side = 1.0
        yield BoxRepair(
            cause.format(side),
            finding.format(side),
            _SCALE_REMEDY,
            lambda boxes, sizes, frame=frame, side=side: boxes * frame(sizes) / side,  # type: ignore[misc]
        )


def _voted_scale(dataset: Dataset, table: DetectionTable, frame: _Frame) -> float | None:
    """Estimate the scale of detections relative to objects whose boxes have been divided by the frame of their image.

    Each pair of a detection and an object in an image votes for the geometric mean of its ratios of centre x, centre
    y, width and height, if they agree. The pairs that voted for the most frequent ratio are fitted by least squares.

    Returns: the ratio, or None if no pair votes.
    """
    pairs = [np.zeros((0, 2, 4))]
    starts = np.searchsorted(table.image_indices, np.arange(len(dataset) + 1)).tolist()
    bounds = zip(starts, starts[1:], dataset.box_start.tolist(), dataset.box_start[1:].tolist(), strict=False)
    for index, (start, stop, first, last) in enumerate(bounds):
        found = _centre_form(table.boxes_xywh[start : min(stop, start + _PER_IMAGE)])
        objects = dataset.boxes_xywh[first : min(last, first + _PER_IMAGE)] / frame(dataset.sizes[index : index + 1])
        pairs.append(np.stack(np.broadcast_arrays(found[:, None], _centre_form(objects)), axis=2).reshape(-1, 2, 4))
    found, objects = np.concatenate(pairs).transpose(1, 0, 2)  # (P, 4) each
    is_valid = (found > 0).all(axis=1) & (objects > 0).all(axis=1)
    found, objects = found[is_valid], objects[is_valid]
    ratios = np.log(found) - np.log(objects)
    is_vote = ratios.std(axis=1) < _MAX_SPREAD
    if not is_vote.any():
        return None
    bins = np.round(ratios.mean(axis=1) / _BIN).astype(np.int64)
    values, counts = np.unique(bins[is_vote], return_counts=True)
    chosen = is_vote & (abs(bins - values[np.argmax(counts)]) <= 1)
    return float((found[chosen] * objects[chosen]).sum() / (objects[chosen] ** 2).sum())


def _centre_form(boxes_xywh: np.ndarray) -> np.ndarray:
    """Centre x, centre y, width and height of boxes (N, 4)."""
    return np.concatenate([boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2, boxes_xywh[:, 2:]], axis=1)
