"""ATSS: anchor assignment with an adaptive IoU threshold for each object (Zhang et al. 2020, algorithm 1)."""

import torch
from torch import Tensor

from retinanet.detection.assignment import Assignment, assign
from retinanet.detection.boxes import centre_form, overlap
from retinanet.detection.nearest import nearest_anchors
from retinanet.structures import Targets

BOXES_AT_ONCE = 256  # per image; limits memory use regardless of the number of boxes
# Minimum distance in pixels from an anchor's centre to the edges of its object, as in the authors' code. With 0,
# rounding would decide whether a centre on an edge is inside.
INSIDE = 0.01
IOU_ROUNDING = 1e-6  # tolerance, so that candidates with identical IoUs do not fall below their own mean


@torch.no_grad()
def assign_atss(
    anchors: list[Tensor], targets: Targets, *, anchors_per_level: int = 9, ignore_ioa: float = 0.5
) -> Assignment:
    """Match anchors to objects with nearby centres, without synchronising the device.

    On each level, the anchors whose centres are nearest to an object's centre become its candidates. A candidate is
    positive if its centre is inside the object and its IoU is at least the mean plus the standard deviation of all
    candidates' IoUs. If an anchor is positive for several objects, it is matched to the one with the largest IoU. All
    other anchors are negative.

    Args:
        anchors: L x (H_l, W_l, a, 4), float32 pixels, one grid per level. The anchors of a cell must share a centre,
            like those of `AnchorGenerator`.
        targets: ground truth of B images. In an image without objects, every anchor is negative.
        anchors_per_level: number of candidates per object on each level; if a level has fewer anchors, all of them are
            candidates. Ties in distance go to the first anchor. The paper uses one anchor per cell and 9 candidates;
            with `a` anchors per cell, 9 * a candidates cover the same number of cells.
        ignore_ioa: ignore a negative anchor if at least this fraction of its area lies in a single crowd region; 0
            disables this and treats crowd regions as background.

    Returns: the assignment of the anchors of all levels, in grid order.
    """
    boxes = torch.cat([level.reshape(-1, 4) for level in anchors])  # (A, 4)
    batch, num_boxes = targets.is_object.shape
    best_iou = boxes.new_zeros(batch, len(boxes))
    gt_index = torch.zeros_like(best_iou, dtype=torch.int64)
    for start in range(0, num_boxes, BOXES_AT_ONCE):
        rows = slice(start, start + BOXES_AT_ONCE)
        gt_boxes = targets.boxes[:, rows]
        candidates = nearest_anchors(anchors, centre_form(gt_boxes)[0], anchors_per_level)
        claimed_iou = _claimed_iou(boxes[candidates], gt_boxes) * targets.is_object[:, rows, None]
        chunk_best, chunk_index = _best_claims(candidates, claimed_iou, len(boxes))
        gt_index = torch.where(chunk_best > best_iou, start + chunk_index, gt_index)  # ties go to the first
        best_iou = torch.maximum(best_iou, chunk_best)
    positive = best_iou > 0
    return Assignment(gt_index, positive, ~positive & _outside_crowds(anchors, targets, ignore_ioa))


def _claimed_iou(candidates: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU of candidates (B, n, C, 4) with their boxes (B, n, 4), or 0 if a candidate is not positive: (B, n, C)."""
    gt_boxes = gt_boxes[:, :, None]
    intersection, union = overlap(candidates, gt_boxes)
    iou = intersection / union
    # Sample standard deviation, as in the authors' code, except for a single candidate, where it would be NaN.
    deviation = iou.std(dim=2, correction=min(1, iou.shape[2] - 1), keepdim=True)
    threshold = iou.mean(dim=2, keepdim=True) + deviation - IOU_ROUNDING
    centres = centre_form(candidates)[0]
    margins = torch.cat([centres - gt_boxes[..., :2], gt_boxes[..., 2:] - centres], dim=-1)
    return iou * ((iou >= threshold) & (margins.amin(dim=-1) > INSIDE))


def _best_claims(candidates: Tensor, claimed_iou: Tensor, num_anchors: int) -> tuple[Tensor, Tensor]:
    """Largest claimed IoU of each anchor (0 if unclaimed) and the index of the box that claims it: (B, A) each.

    Args:
        candidates: (B, n, C) anchor indices.
        claimed_iou: (B, n, C), 0 where a candidate is not positive.
        num_anchors: A.
    """
    batch, num_boxes, _ = candidates.shape
    anchor, iou = candidates.flatten(1), claimed_iou.flatten(1)
    best = iou.new_zeros(batch, num_anchors).scatter_reduce_(1, anchor, iou, "amax")
    owner = torch.arange(num_boxes, device=iou.device)[:, None].expand(candidates.shape).flatten(1)
    owner = torch.where(iou == best.gather(1, anchor), owner, num_boxes - 1)  # ties go to the first
    index = anchor.new_full(best.shape, num_boxes - 1).scatter_reduce_(1, anchor, owner, "amin")
    return best, index


def _outside_crowds(anchors: list[Tensor], targets: Targets, ignore_ioa: float) -> Tensor:
    """Whether every crowd region covers less than `ignore_ioa` of an anchor: (B, A), or () if true for all anchors."""
    if not targets.has_crowd or ignore_ioa == 0:
        return torch.ones((), dtype=torch.bool, device=targets.boxes.device)
    # Without objects, every anchor outside the crowd regions is negative.
    crowds = targets._replace(is_object=torch.zeros_like(targets.is_object))
    return assign(anchors, crowds, low_quality_matches=False, ignore_ioa=ignore_ioa).negative
