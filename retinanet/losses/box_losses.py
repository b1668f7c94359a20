"""Box regression losses, one value per anchor (smooth L1, GIoU, DIoU, CIoU).

torchvision's IoU losses are not used because they index with a mask, which synchronises the device.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.detection.boxes import area, centre_form, decode, decoded_sizes, encode, overlap
from retinanet.losses.arguments import check_number

EPSILON = 1e-7  # square pixels, avoids division by zero; same value as in torchvision


class BoxLoss(Protocol):
    """Regression loss of each anchor's predicted box, computed in float32."""

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Compute one loss per anchor, differentiable with respect to the deltas.

        Args:
            deltas: (..., 4), predicted offsets.
            boxes: (..., 4), ground-truth boxes with non-zero area.
            anchors: (..., 4), broadcastable to the deltas.

        Returns: one loss per anchor, (...).
        """


class SmoothL1Loss:
    """Smooth L1 loss on the encoded offsets, summed over all four (Girshick 2015, eq. 3).

    Args:
        beta: error above which the loss is linear; 0 gives the L1 loss.
    """

    def __init__(self, *, beta: float = 0.1):
        check_number("beta", beta, low=0)
        self.beta = beta

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        return F.smooth_l1_loss(deltas, encode(boxes, anchors), beta=self.beta, reduction="none").sum(-1)


class GIoULoss:
    """1 - generalised IoU of the decoded boxes (Rezatofighi et al. 2019)."""

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        decoded = decode(deltas, anchors)
        intersection, union = overlap(decoded, boxes)
        hull = area(_hull(decoded, boxes))
        return 1 - intersection / (union + EPSILON) + (hull - union) / (hull + EPSILON)


class DIoULoss:
    """Distance-IoU loss of the decoded boxes (Zheng et al. 2020, eq. 7).

    1 - IoU + (distance between the centres)^2 / (diagonal of the enclosing box)^2.
    """

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        return _diou_loss(decode(deltas, anchors), boxes)[0]


class CIoULoss:
    """Complete-IoU loss of the decoded boxes (Zheng et al. 2020, eqs. 8 to 11).

    DIoU loss + a v, where v measures the difference in aspect ratio, and a = v / (1 - IoU + v) is treated as a constant
    when computing gradients. The gradient of v is exact; the paper's code omits its factor 1 / (w^2 + h^2).
    """

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        decoded = decode(deltas, anchors)
        diou_loss, iou = _diou_loss(decoded, boxes)
        # If sizes were computed from the corners, a tiny box would receive two huge gradients that nearly cancel.
        difference = _angle(centre_form(boxes)[1]) - _angle(decoded_sizes(deltas, anchors))
        v = (4 / math.pi**2) * difference**2
        weight = (v / (1 - iou + v + EPSILON)).detach()
        return diou_loss + weight * v


def _diou_loss(decoded: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """DIoU loss and IoU: (..., 4), (..., 4) -> (...) each."""
    intersection, union = overlap(decoded, boxes)
    iou = intersection / (union + EPSILON)
    hull = _hull(decoded, boxes)
    diagonal = ((hull[..., 2:] - hull[..., :2]) ** 2).sum(-1)
    distance = ((centre_form(decoded)[0] - centre_form(boxes)[0]) ** 2).sum(-1)
    return 1 - iou + distance / (diagonal + EPSILON), iou


def _hull(boxes: Tensor, others: Tensor) -> Tensor:
    """Smallest box enclosing each pair of boxes: (..., 4), (..., 4) -> (..., 4)."""
    return torch.cat(
        [torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])], dim=-1
    )


def _angle(sizes: Tensor) -> Tensor:
    """arctan(width / height), with a finite gradient at height 0: (..., 2) -> (...)."""
    return torch.atan2(*sizes.unbind(-1))
