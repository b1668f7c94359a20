"""Detections of a dataset as flat arrays, in the order in which COCO breaks ties between equal scores."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from retinanet.structures import Detections


class DetectionTable(NamedTuple):
    """Detections sorted by rank of the image id, then by position in the image."""

    image_indices: np.ndarray  # (D,) int64, dataset index
    positions: np.ndarray  # (D,) int64, row in the image's Detections
    boxes_xywh: np.ndarray  # (D, 4) float64: left, top, width, height
    scores: np.ndarray  # (D,) float64
    labels: np.ndarray  # (D,) int64


def ranks(ids: Sequence[int | str]) -> np.ndarray:
    """Rank of each id, starting from 1; strings come after numbers: (len(ids),) int64.

    hotcoco needs non-negative integers as ids. Ranks preserve the order of arbitrary ids, and that order breaks ties.
    """
    order = sorted(range(len(ids)), key=lambda index: (isinstance(ids[index], str), ids[index]))
    result = np.empty(len(ids), dtype=np.int64)
    result[order] = np.arange(1, len(ids) + 1)
    return result


def rows_by_image(image_indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each image index that occurs, in ascending order, with its rows (N,), which keep their order."""
    order = np.argsort(image_indices, kind="stable")
    indices, starts = np.unique(image_indices[order], return_index=True)
    yield from zip(indices.tolist(), np.split(order, starts[1:]), strict=False)  # one empty part if there are no rows


def detection_table(detections: Mapping[int, Detections], image_ranks: np.ndarray) -> DetectionTable:
    """Flatten detections keyed by image index."""
    indices = sorted(detections, key=lambda index: image_ranks[index])
    counts = [len(detections[index].scores) for index in indices]
    if not sum(counts):
        none = np.zeros(0, dtype=np.int64)
        return DetectionTable(none, none, np.zeros((0, 4)), np.zeros(0), none)
    corners = torch.cat([detections[index].boxes.cpu() for index in indices]).numpy()
    boxes_xywh = corners.astype(np.float64)  # before the subtraction, to keep sizes exact
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    return DetectionTable(
        image_indices=np.repeat(np.array(indices, dtype=np.int64), counts),
        positions=np.concatenate([np.arange(count) for count in counts]),
        boxes_xywh=boxes_xywh,
        scores=torch.cat([detections[index].scores.cpu() for index in indices]).numpy().astype(np.float64),
        labels=torch.cat([detections[index].labels.cpu() for index in indices]).numpy().astype(np.int64),
    )
