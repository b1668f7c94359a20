"""The AP ceiling: detections that are perfect except for losses due to anchors and postprocessing."""

from typing import NamedTuple

import numpy as np
import torch

from retinanet.config import PostprocessConfig
from retinanet.detection.nms import nms_by_group
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections


class Lost(NamedTuple):
    """Numbers of objects that a detector with perfect scores and boxes misses, by the first reason that applies."""

    unmatched: int  # no positive anchor
    suppressed: int  # removed by NMS in favour of a neighbour of the same class
    beyond_limit: int  # more than `postprocess.max_detections` in the image


def perfect_detections(
    dataset: Dataset, is_learned: np.ndarray, cfg: PostprocessConfig
) -> tuple[dict[int, Detections], Lost]:
    """Create perfect detections of a dataset, limited only by anchors and postprocessing.

    Each object with a positive anchor is detected with its exact box and label and a score of 1; all others are missed.
    The detections then pass through the config's NMS and its limit per image. All scores are equal, so both
    prefer the first object of the image. `top_k` is not applied: it limits candidates per level, before NMS.

    Args:
        is_learned: (M,) bool, boxes that have a positive anchor.

    Returns: detections by image index, and the number of objects missed.
    """
    boxes, labels = torch.from_numpy(dataset.boxes), torch.from_numpy(dataset.labels)
    candidates = is_learned & ~dataset.is_crowd
    detections: dict[int, Detections] = {}
    num_suppressed = num_beyond = 0
    for index, (start, stop) in enumerate(zip(dataset.box_start, dataset.box_start[1:], strict=False)):
        rows = torch.from_numpy(start + np.flatnonzero(candidates[start:stop]))
        groups = torch.zeros_like(rows) if cfg.nms_across_classes else labels[rows]
        kept = nms_by_group(boxes[rows], torch.ones(len(rows)), groups, max_iou=cfg.nms_iou).sort().values
        num_suppressed += len(rows) - len(kept)
        num_beyond += max(0, len(kept) - cfg.max_detections)
        rows = rows[kept[: cfg.max_detections]]
        detections[index] = Detections(boxes[rows], torch.ones(len(rows)), labels[rows])
    unmatched = int((~is_learned & ~dataset.is_crowd).sum())
    return detections, Lost(unmatched, num_suppressed, num_beyond)
