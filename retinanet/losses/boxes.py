"""Regression losses on boxes, one value an anchor.

Those on IoU are not torchvision's: these index with a mask, where the device waits for the host.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.detection.boxes import area, centre_form, decode, decoded_sizes, encode, overlap

EPSILON = 1e-7  # square pixels, against a division by zero; torchvision's


class SmoothL1:
    """Smooth L1 on the encoded offsets, summed over the four (Girshick 2015, eq. 3); beta 0 is L1."""

    def __init__(self, *, beta: float = 0.1):
        self.beta = beta

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        return F.smooth_l1_loss(deltas, encode(boxes, anchors), beta=self.beta, reduction="none").sum(-1)


class GIoU:
    """1 - generalised IoU of the decoded boxes (Rezatofighi et al. 2019)."""

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        decoded = decode(deltas, anchors)
        shared, union = overlap(decoded, boxes)
        hull = area(_hull(decoded, boxes))
        return 1 - shared / (union + EPSILON) + (hull - union) / (hull + EPSILON)


class DIoU:
    """1 - IoU of the decoded boxes + squared distance of centres over the squared diagonal of the smallest box around
    both (Zheng et al. 2020, eq. 7)."""

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        return _distance_loss(decode(deltas, anchors), boxes)[0]


class CIoU:
    """DIoU + a v, where v compares aspect ratios and a = v / (1 - IoU + v), a constant for the gradient
    (Zheng et al. 2020, eqs. 8 to 11).

    The gradient of v is the exact one; the paper's code leaves out its factor 1 / (w^2 + h^2).
    """

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        decoded = decode(deltas, anchors)
        distance_loss, iou = _distance_loss(decoded, boxes)
        # Sizes from corners would send back two gradients as large as a tiny box is small, which nearly cancel.
        difference = _angle(centre_form(boxes)[1]) - _angle(decoded_sizes(deltas, anchors))
        v = (4 / math.pi**2) * difference**2
        weight = (v / (1 - iou + v + EPSILON)).detach()
        return distance_loss + weight * v


def _distance_loss(decoded: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of DIoU, and the IoU."""
    shared, union = overlap(decoded, boxes)
    iou = shared / (union + EPSILON)
    hull = _hull(decoded, boxes)
    diagonal = ((hull[..., 2:] - hull[..., :2]) ** 2).sum(-1)
    distance = ((centre_form(decoded)[0] - centre_form(boxes)[0]) ** 2).sum(-1)
    return 1 - iou + distance / (diagonal + EPSILON), iou


def _hull(boxes: Tensor, others: Tensor) -> Tensor:
    """The smallest box around each two: (..., 4)."""
    return torch.cat(
        [torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])], dim=-1
    )


def _angle(sizes: Tensor) -> Tensor:
    """arctan(width / height), with a finite gradient for boxes without a height, too: (..., 2) -> (...)."""
    return torch.atan2(*sizes.unbind(-1))
