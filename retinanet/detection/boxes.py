"""Box geometry: overlap, and the offsets that the network predicts (Girshick et al. 2014, appendix C)."""

import math

import torch
from torch import Tensor

# exp() of a wild prediction would overflow; no object is that much larger than its anchor.
MAX_LOG_SCALE = math.log(1000 / 16)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...), square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def overlap(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of each two boxes (..., 4), the area that both cover (...), and the area that either covers (...)."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    shared = width * height
    return shared, area(boxes) + area(others) - shared


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(dx, dy, log dw, log dh) from anchors to boxes: (..., 4), (..., 4) -> (..., 4). Boxes must have an area."""
    centres, sizes = centre_form(boxes)
    anchor_centres, anchor_sizes = centre_form(anchors)
    return torch.cat([(centres - anchor_centres) / anchor_sizes, torch.log(sizes / anchor_sizes)], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`: (..., 4), (..., 4) -> (..., 4), in pixels."""
    anchor_centres, anchor_sizes = centre_form(anchors)
    centres = deltas[..., :2] * anchor_sizes + anchor_centres
    half = decoded_sizes(deltas, anchors) / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def decoded_sizes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Width and height (..., 2) of the decoded boxes, also where they are too small to be told from corners."""
    return torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * centre_form(anchors)[1]


def centre_form(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) -> centres (..., 2) and sizes (..., 2)."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Cut boxes (B, D, 4) to their images, sizes (B, 2) as height and width."""
    limits = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes)  # (B, 1, 4): width, height, width, height
    return torch.minimum(boxes.clamp(min=0), limits)
