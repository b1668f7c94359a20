"""Which anchor learns what: object, background, or nothing (Lin et al. 2017, section 4)."""

from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.detection.boxes import pairwise_ioa, pairwise_iou
from retinanet.structures import Targets

# Ground-truth boxes looked at together: bounds memory at (B, BOXES_AT_ONCE, A) for any number of boxes.
BOXES_AT_ONCE = 8


class Assignment(NamedTuple):
    """What each anchor learns; an anchor in neither mask is ignored."""

    gt_index: Tensor  # (B, A) int64, row of the targets, meaningful only where `positive`
    positive: Tensor  # (B, A) bool
    negative: Tensor  # (B, A) bool


@torch.no_grad()
def assign(
    anchors: Tensor,
    targets: Targets,
    *,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality_matches: bool = True,
    ignore_ioa: float = 0.5,
) -> Assignment:
    """Match every anchor of every image to at most one ground-truth box, without reading the device.

    Args:
        anchors: (A, 4), pixels.
        targets: ground truth of B images. Where an image has no object, every anchor is negative.
        fg_iou: an anchor is positive from this IoU upwards.
        bg_iou: an anchor is negative below this IoU; in between it is ignored.
        low_quality_matches: an object that no anchor covers by `fg_iou` still gets its closest anchors, ties included.
        ignore_ioa: a negative anchor with at least this share of its area in one crowd region is ignored; 0 switches
            it off, and the region is background.
    """
    batch, num_boxes = targets.is_object.shape
    shape = (batch, anchors.shape[0])
    best_iou = anchors.new_zeros(shape)
    gt_index = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    closest = torch.zeros(shape, dtype=torch.bool, device=anchors.device)
    in_crowd = torch.zeros(shape, dtype=torch.bool, device=anchors.device)

    for start in range(0, num_boxes, BOXES_AT_ONCE):
        boxes = targets.boxes[:, start : start + BOXES_AT_ONCE]
        is_object = targets.is_object[:, start : start + BOXES_AT_ONCE, None]
        is_crowd = targets.is_crowd[:, start : start + BOXES_AT_ONCE, None]

        iou = pairwise_iou(boxes, anchors) * is_object  # (B, n, A)
        chunk_iou, chunk_index = iou.max(dim=1)
        better = chunk_iou > best_iou  # strictly: of equal boxes the first one wins
        gt_index = torch.where(better, chunk_index + start, gt_index)
        best_iou = torch.where(better, chunk_iou, best_iou)
        if low_quality_matches:
            # Without `iou > 0`, padding and boxes that touch no anchor would claim every one of them.
            closest |= ((iou == iou.amax(dim=2, keepdim=True)) & (iou > 0)).any(dim=1)
        if ignore_ioa > 0:
            in_crowd |= ((pairwise_ioa(boxes, anchors) >= ignore_ioa) & is_crowd).any(dim=1)

    positive = (best_iou >= fg_iou) | closest
    return Assignment(gt_index, positive, negative=(best_iou < bg_iou) & ~positive & ~in_crowd)
