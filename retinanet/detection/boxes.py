"""Box geometry: areas, overlap, and the offsets predicted by the network (Girshick et al. 2014, appendix C)."""

import math

import torch
from torch import Tensor

# Upper limit of log dw and log dh: exp() would overflow for extreme predictions, and no object is that much larger than
# its anchor.
MAX_LOG_SCALE = math.log(1000 / 16)


def area(boxes: Tensor) -> Tensor:
    """Compute areas in square pixels: (..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def overlap(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the intersection and union areas of pairs of boxes: (..., 4), (..., 4) -> (...) each."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    intersection = width * height
    return intersection, area(boxes) + area(others) - intersection


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Encode boxes as offsets (dx, dy, log dw, log dh) from anchors: (..., 4), (..., 4) -> (..., 4).

    Boxes must have a positive width and height.
    """
    centres, sizes = centre_form(boxes)
    anchor_centres, anchor_sizes = centre_form(anchors)
    return torch.cat([(centres - anchor_centres) / anchor_sizes, torch.log(sizes / anchor_sizes)], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Decode offsets from anchors to boxes in pixels, the inverse of `encode`: (..., 4), (..., 4) -> (..., 4)."""
    anchor_centres, anchor_sizes = centre_form(anchors)
    centres = deltas[..., :2] * anchor_sizes + anchor_centres
    half = decoded_sizes(deltas, anchors) / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def decoded_sizes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Compute widths and heights of decoded boxes: (..., 4), (..., 4) -> (..., 2).

    Unlike the difference of the decoded corners, they are exact even if the corners coincide.
    """
    return torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * centre_form(anchors)[1]


def centre_form(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Compute centres and sizes (width, height): (..., 4) -> (..., 2), (..., 2)."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes (B, D, 4) to their images, given image sizes (B, 2) as (height, width)."""
    limits = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes)  # (B, 1, 4): width, height, width, height
    return torch.minimum(boxes.clamp(min=0), limits)
