"""Detections in the views of an image."""

from collections.abc import Sequence

import torch

from retinanet.detection.merge import ViewDetections
from retinanet.formats.images.windows import Window
from retinanet.structures import Detections


def seen(window: Sequence[int], *objects: Sequence[float]) -> ViewDetections:
    """The detections in one view, each given as x1, y1, x2, y2, score and, unless it is 0, label."""
    rows = torch.tensor([[*row, 0][:6] for row in objects], dtype=torch.float32).view(-1, 6)
    return ViewDetections(Window(*window), Detections(rows[:, :4], rows[:, 4], rows[:, 5].long()))


def parts_seen(window: Sequence[int], *objects: Sequence[float]) -> ViewDetections:
    """The detections of a perfect detector in one view: the visible part of each object, as in `seen`."""
    x1, y1, x2, y2 = window
    parts = [
        (max(left, x1), max(top, y1), min(right, x2), min(bottom, y2), *rest)
        for left, top, right, bottom, *rest in objects
    ]
    return seen(window, *(part for part in parts if part[0] < part[2] and part[1] < part[3]))


def rows(detections: Detections) -> list[list[float]]:
    """The boxes with their scores and labels, rounded."""
    return [
        [*(round(side, 3) for side in box), round(score, 4), label]
        for box, score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]
