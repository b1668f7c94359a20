"""A page to browse the images of a dataset with their ground truth and, if there are any, detections."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from retinanet.evaluation.detection_kinds import KINDS, detection_kinds, found_scores, matched_boxes
from retinanet.evaluation.matches import match_detections
from retinanet.formats.dataset import Dataset, concatenate, start_of_each
from retinanet.report.images import image_names
from retinanet.runtime.console import escape_controls
from retinanet.structures import Detections
from retinanet.visualization.html import render_page

COMMAND = "retinanet browse"
CROWD = -1.0  # stands for the score of the matching detection in crowd regions, which are not objects


class FoundObjects(NamedTuple):
    """Detections on a dataset, sorted by image and then by score, with the kind of each.

    D is the number of detections, M the number of boxes of the dataset.
    """

    start: np.ndarray  # (I + 1,) int64: image i has detections start[i]:start[i + 1]
    boxes: np.ndarray  # (D, 4) float32, corners
    labels: np.ndarray  # (D,) int64
    scores: np.ndarray  # (D,) float64
    kinds: np.ndarray  # (D,) int64, position in `KINDS`
    object_scores: np.ndarray  # (M,) float64: score of the detection that matches an object, 0 if none does


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The images to browse."""

    title: str
    dataset: Dataset  # of all splits
    splits: tuple[str, ...]  # names; empty if there is only one
    split_of: np.ndarray  # (I,) int64, position in `splits`
    found: FoundObjects | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def spread_out(self, count: int) -> list[int]:
        """Indices of at most `count` images, evenly spread."""
        return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)).tolist()


def collect_splits(title: str, parts: Mapping[str, Dataset]) -> Collection:
    """Join the splits of a dataset. Their classes may differ: those of the first split come first."""
    names = tuple(dict.fromkeys(name for data in parts.values() for name in data.class_names))
    joined = [_with_classes(data, names) for data in parts.values()]
    counts = [len(data) for data in joined]
    return Collection(
        title=title,
        dataset=joined[0] if len(joined) == 1 else concatenate(joined),
        splits=tuple(parts) if len(parts) > 1 else (),
        split_of=np.repeat(np.arange(len(joined)), counts),
    )


def _with_classes(data: Dataset, names: tuple[str, ...]) -> Dataset:
    label_of = np.array([names.index(name) for name in data.class_names], dtype=np.int64)
    ids = tuple(range(1, len(names) + 1))
    return replace(data, class_names=names, category_ids=ids, labels=label_of[data.labels], federated=None)


def collect_detections(title: str, dataset: Dataset, detections: Mapping[int, Detections]) -> Collection:
    """Combine detections with the ground truth of a dataset."""
    return Collection(
        title=title,
        dataset=dataset,
        splits=(),
        split_of=np.zeros(len(dataset), dtype=np.int64),
        found=_found_objects(dataset, detections),
    )


def _found_objects(dataset: Dataset, detections: Mapping[int, Detections]) -> FoundObjects:
    matches = match_detections(dataset, detections)
    boxes = matched_boxes(matches, detections)
    order = np.lexsort((matches.positions, -matches.scores, matches.image_indices))
    return FoundObjects(
        start=start_of_each(np.bincount(matches.image_indices, minlength=len(dataset))),
        boxes=boxes[order],
        labels=matches.labels[order],
        scores=matches.scores[order],
        kinds=detection_kinds(dataset, matches, boxes)[order],
        object_scores=found_scores(matches),
    )


def render_browser(collection: Collection, images: Mapping[int, str] | None = None) -> str:
    """Render the page.

    Args:
        images: data URL of each image to show, by index, for a page that needs no server. None: the page shows all
            images, and loads them from `thumbnail/INDEX` and `image/INDEX`.
    """
    values = {"collection": collection, "data": page_data(collection, images), "is_served": images is None}
    return render_page("retinanet.report", "browse.html", values, command=COMMAND, scripts=["browse.js"])


def page_data(collection: Collection, images: Mapping[int, str] | None) -> dict[str, Any]:
    """Everything that the script of the page needs, with arrays as base64 of little-endian numbers."""
    data, found = collection.dataset, collection.found
    return {
        "names": [escape_controls(name) for name in image_names(data.paths)],
        "classes": [escape_controls(name) for name in data.class_names],
        "splits": [escape_controls(name) for name in collection.splits],
        "sizes": _base64(data.sizes, "<i4"),
        "split": _base64(collection.split_of, "<i4"),
        "objects": {
            "start": _base64(data.box_start, "<i4"),
            "boxes": _base64(data.boxes, "<f4"),
            "labels": _base64(data.labels, "<i4"),
            "scores": _base64(_object_scores(collection), "<f4"),
        },
        "detections": found
        and {
            "start": _base64(found.start, "<i4"),
            "boxes": _base64(found.boxes, "<f4"),
            "labels": _base64(found.labels, "<i4"),
            "scores": _base64(found.scores, "<f4"),
            "kinds": _base64(found.kinds, "<i4"),
        },
        "kinds": KINDS,
        "images": images,
    }


def _object_scores(collection: Collection) -> np.ndarray:
    scores = np.zeros(len(collection.dataset.labels)) if collection.found is None else collection.found.object_scores
    return np.where(collection.dataset.is_crowd, CROWD, scores)


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()
