"""Images of a page: small JPEG files, and the objects and detections to draw over them as boxes."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from retinanet.errors import InputError
from retinanet.evaluation.detection_kinds import KINDS, detection_kinds, found_scores, matched_boxes
from retinanet.evaluation.matches import Matches
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections
from retinanet.visualization.html import image_url

MIN_SIDE, MAX_SIDE = 360, 480  # pixels of the longer side of an image on the page
MAX_BYTES = 60_000  # of the data URL of an image
QUALITIES = (75, 60, 45, 30, 15)  # JPEG qualities; the first one that fits is used
MAX_OBJECTS, MAX_DETECTIONS = 60, 40  # boxes drawn on an image: the largest objects, the highest scores
MIN_NAMED_WIDTH, MIN_NAMED_HEIGHT = 20, 14  # pixels on the page of a box with a name

ReadImage = Callable[[int], Tensor]  # from a dataset index to pixels (C, H, W) uint8


class Reason(NamedTuple):
    """A reason to show an image."""

    group: str
    text: str


class BoxView(NamedTuple):
    """A box on an image of the page."""

    x: float  # pixels of the image on the page, as are the following
    y: float
    width: float
    height: float
    label: int
    score: float  # of the detection, or of the detection that matches the object; 0 if none does
    kind: str  # of an object: "object" or "ignored"; of a detection: one of `KINDS`

    @property
    def has_room(self) -> bool:
        """Whether a name fits without hiding the box and its neighbours."""
        return self.width >= MIN_NAMED_WIDTH and self.height >= MIN_NAMED_HEIGHT


class ImageView(NamedTuple):
    """An image of the page with its boxes."""

    index: int  # in the dataset
    path: str
    reasons: tuple[Reason, ...]
    url: str  # data URL
    width: int
    height: int
    objects: list[BoxView]
    detections: list[BoxView]  # highest score first
    num_objects: int  # in the image, of which at most `MAX_OBJECTS` are drawn
    num_detections: int


def view_images(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    matches: Matches,
    reasons: Mapping[int, Sequence[Reason]],
    read_image: ReadImage,
) -> list[ImageView]:
    """Shrink the images that have a reason to be shown, and collect their boxes. Unreadable images are omitted.

    Args:
        reasons: by dataset index, in the order of the page.
        read_image: returns the pixels of an image; raises `InputError` if it cannot be read.
    """
    boxes = matched_boxes(matches, detections)
    kinds, match_scores = detection_kinds(dataset, matches, boxes), found_scores(matches)
    views = []
    for index, texts in reasons.items():
        try:
            pixels = read_image(index)
        except InputError:
            continue
        url, height, width = _thumbnail(pixels)
        image_height, image_width = dataset.sizes[index].tolist()
        scale = np.array([width / image_width, height / image_height] * 2)
        objects = _object_views(dataset, matches, index, match_scores, scale)
        found = _detection_views(matches, boxes, kinds, index, scale)
        views.append(
            ImageView(
                index=index,
                path=dataset.paths[index],
                reasons=tuple(texts),
                url=url,
                width=width,
                height=height,
                objects=objects[:MAX_OBJECTS],
                detections=found[:MAX_DETECTIONS],
                num_objects=len(objects),
                num_detections=len(found),
            )
        )
    return views


def image_names(paths: Sequence[str]) -> list[str]:
    """Paths relative to their common folder."""
    folders = {os.path.dirname(path) for path in paths}
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # no paths, a mixture of absolute and relative ones, or several drives
        return list(paths)
    return [os.path.relpath(path, common or ".") for path in paths]


def _object_views(
    dataset: Dataset, matches: Matches, index: int, match_scores: np.ndarray, scale: np.ndarray
) -> list[BoxView]:
    """The objects of an image, largest first."""
    rows = np.arange(dataset.box_start[index], dataset.box_start[index + 1])
    rows = rows[np.argsort(-dataset.areas[rows], kind="stable")]
    kinds = np.where(matches.is_ignored_object[rows], "ignored", "object").tolist()
    return _box_views(dataset.boxes[rows] * scale, dataset.labels[rows], match_scores[rows], kinds)


def _detection_views(
    matches: Matches, boxes: np.ndarray, kinds: np.ndarray, index: int, scale: np.ndarray
) -> list[BoxView]:
    """The detections of an image that count, highest score first."""
    rows = np.flatnonzero(matches.image_indices == index)
    rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
    names = [KINDS[kind] for kind in kinds[rows].tolist()]
    return _box_views(boxes[rows] * scale, matches.labels[rows], matches.scores[rows], names)


def _box_views(corners: np.ndarray, labels: np.ndarray, scores: np.ndarray, kinds: Sequence[str]) -> list[BoxView]:
    left_top, sides = corners[:, :2].round(1), (corners[:, 2:] - corners[:, :2]).round(1)
    rows = zip(left_top.tolist(), sides.tolist(), labels.tolist(), scores.tolist(), kinds, strict=True)
    return [BoxView(*place, *size, label, score, kind) for place, size, label, score, kind in rows]


def _thumbnail(pixels: Tensor) -> tuple[str, int, int]:
    """Resize and encode an image; return its data URL, of at most `MAX_BYTES` if possible, and its height and width."""
    longer = max(pixels.shape[-2:])
    scale = min(MAX_SIDE, max(MIN_SIDE, longer)) / longer
    height, width = (max(1, round(scale * side)) for side in pixels.shape[-2:])
    small = F.resize(pixels, [height, width], antialias=True)
    for quality in QUALITIES:
        url = image_url(small, quality=quality)
        if len(url) <= MAX_BYTES:
            break
    return url, height, width
