"""Conversion mistakes, planted in correct detections."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

BoxFault = Callable[[Tensor, int, int], Tensor]  # boxes (D, 4), width and height of the image


def _centre_form(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def _mapped(boxes: Tensor, point: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Map both corners of each box to other points, in the order of their coordinates."""
    first, second = (torch.stack(point(*corner.T), dim=1) for corner in (boxes[:, :2], boxes[:, 2:]))
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)


BOX_FAULTS: dict[str, tuple[BoxFault, str]] = {  # with the cause that must be named
    "scaled by 1.5": (lambda boxes, w, h: 1.5 * boxes, "boxes are scaled by about 1.5"),
    "scaled by 1/2": (lambda boxes, w, h: boxes / 2, "boxes are scaled by about 0.5"),
    "shorter side of 800": (lambda boxes, w, h: boxes * 800 / min(w, h), "boxes are in pixels of resized images"),
    "longer side of 1333": (lambda boxes, w, h: boxes * 1333 / max(w, h), "boxes are in pixels of resized images"),
    "stretched to 512": (
        lambda boxes, w, h: boxes * 512 / torch.tensor([w, h, w, h]),
        "boxes are in pixels of stretched images",
    ),
    "normalised": (lambda boxes, w, h: boxes / torch.tensor([w, h, w, h]), "boxes are normalised to 0..1"),
    "xywh": (
        lambda boxes, w, h: torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1),
        "boxes contain a width and height instead of the second corner",
    ),
    "xyxy as xywh": (
        lambda boxes, w, h: torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
        "boxes contain the second corner instead of a width and height",
    ),
    "cxcywh": (
        lambda boxes, w, h: _centre_form(boxes),
        "boxes contain a centre, a width and a height instead of two corners",
    ),
    "cxcywh as xywh": (
        lambda boxes, w, h: boxes + torch.cat([boxes[:, 2:] - boxes[:, :2]] * 2, dim=1) / 2,
        "boxes contain their centre instead of the top left corner",
    ),
    "YOLO": (
        lambda boxes, w, h: _centre_form(boxes) / torch.tensor([w, h, w, h]),
        "boxes contain a centre, a width and a height instead of two corners, and are normalised to 0..1",
    ),
    "swapped": (lambda boxes, w, h: _mapped(boxes, lambda x, y: (y, x)), "x and y are swapped"),
    "flipped": (lambda boxes, w, h: _mapped(boxes, lambda x, y: (w - x, y)), "boxes are flipped horizontally"),
    "upside down": (lambda boxes, w, h: _mapped(boxes, lambda x, y: (x, h - y)), "boxes are flipped vertically"),
    "rotated by 180": (
        lambda boxes, w, h: _mapped(boxes, lambda x, y: (w - x, h - y)),
        "boxes are rotated by 180 degrees",
    ),
    "rotated by 90": (lambda boxes, w, h: _mapped(boxes, lambda x, y: (h - y, x)), "boxes are rotated by 90 degrees"),
    "rotated by 270": (lambda boxes, w, h: _mapped(boxes, lambda x, y: (y, w - x)), "boxes are rotated by 90 degrees"),
    "mirrored": (
        lambda boxes, w, h: _mapped(boxes, lambda x, y: (h - y, w - x)),
        "boxes are mirrored along a diagonal",
    ),
}


def with_box_fault(detections: Mapping[int, Detections], dataset: Dataset, fault: BoxFault) -> dict[int, Detections]:
    """The detections with other boxes."""
    return {
        index: Detections(
            fault(one.boxes, int(dataset.sizes[index, 1]), int(dataset.sizes[index, 0])), one.scores, one.labels
        )
        for index, one in detections.items()
    }


def with_labels(detections: Mapping[int, Detections], new_label: Sequence[int]) -> dict[int, Detections]:
    """The detections with label k replaced by `new_label[k]`."""
    labels = torch.tensor(new_label)
    return {index: Detections(one.boxes, one.scores, labels[one.labels]) for index, one in detections.items()}


def image_faults(dataset: Dataset) -> dict[str, list[int]]:
    """Index of the image that wrongly gets the detections of each image."""
    indices = list(range(len(dataset)))
    as_text = sorted(indices, key=lambda index: str(dataset.image_ids[index]))
    by_file = sorted(indices, key=lambda index: dataset.paths[index])
    return {
        "counted from 1 instead of 0": [(index + 1) % len(dataset) for index in indices],
        "counted from 0 instead of 1": [(index - 1) % len(dataset) for index in indices],
        "numbered by file name": [by_file.index(index) for index in indices],
        "listed by file name": by_file,
        "numbered by text of the id": as_text,
        "reversed": indices[::-1],
    }
