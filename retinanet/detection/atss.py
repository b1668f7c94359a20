"""ATSS: anchor assignment with a threshold adapted to each object (Zhang et al. 2020, algorithm 1)."""

import math

import torch
from torch import Tensor

from retinanet.detection.assignment import Assignment, assign
from retinanet.detection.boxes import centre_form, overlap
from retinanet.structures import Targets

BOXES_AT_ONCE = 256  # per image: bounds memory for any number of boxes
# Pixels by which a centre must lie inside its object, as in the authors' code: for a centre on the edge, rounding would
# decide.
INSIDE = 0.01
IOU_ROUNDING = 1e-6  # tolerance, so that candidates with one and the same IoU are not below their mean


@torch.no_grad()
def assign_atss(
    anchors: list[Tensor], targets: Targets, *, anchors_per_level: int = 9, ignore_ioa: float = 0.5
) -> Assignment:
    """Match anchors to the objects whose centres are near, without device synchronisations.

    The candidates of an object are, on each level, the anchors whose centres are nearest to its own. A candidate is
    positive if its IoU is at least the mean plus the standard deviation of the IoU of all candidates, and its centre is
    inside the object. An anchor claimed by several objects goes to the one with the largest IoU. All other anchors are
    negative.

    Args:
        anchors: L x (H_l, W_l, a, 4), float32 pixels, a grid on each level. The anchors of a cell share their centre,
            as those of `AnchorGenerator` do.
        targets: ground truth of B images. Without objects, every anchor of an image is negative.
        anchors_per_level: candidates of an object on each level; all anchors of a level that has fewer. Of equally near
            anchors, the first. The paper has one anchor per cell and takes 9; with a per cell, 9 a are as many cells.
        ignore_ioa: a negative anchor with at least this fraction of its area in one crowd region is ignored; 0 disables
            this, and the region is background.

    Returns: an assignment over the anchors of all levels in the order of the grids.
    """
    boxes = torch.cat([level.reshape(-1, 4) for level in anchors])  # (A, 4)
    batch, num_boxes = targets.is_object.shape
    best_iou = boxes.new_zeros(batch, len(boxes))
    gt_index = torch.zeros_like(best_iou, dtype=torch.int64)
    for start in range(0, num_boxes, BOXES_AT_ONCE):
        rows = slice(start, start + BOXES_AT_ONCE)
        gt_boxes = targets.boxes[:, rows]
        candidates = _candidates(anchors, centre_form(gt_boxes)[0], anchors_per_level)
        claimed_iou = _claimed_iou(boxes[candidates], gt_boxes) * targets.is_object[:, rows, None]
        chunk_best, chunk_index = _best_claims(candidates, claimed_iou, len(boxes))
        gt_index = torch.where(chunk_best > best_iou, start + chunk_index, gt_index)  # of equals, the first
        best_iou = torch.maximum(best_iou, chunk_best)
    positive = best_iou > 0
    return Assignment(gt_index, positive, ~positive & _outside_crowds(anchors, targets, ignore_ioa))


def _candidates(anchors: list[Tensor], centres: Tensor, per_level: int) -> Tensor:
    """Indices of the anchors nearest to points (B, n, 2) on each level: (B, n, C)."""
    index_per_level, first = [], 0
    for level in anchors:
        index_per_level.append(first + _nearest(level, centres, per_level))
        first += level[..., 0].numel()
    return torch.cat(index_per_level, dim=2)


def _nearest(level: Tensor, centres: Tensor, count: int) -> Tensor:
    """Indices of the `count` nearest anchors of one grid (H, W, a, 4), or of all if fewer: (B, n, count)."""
    _, columns, a = level.shape[:3]
    cells = math.ceil(count / a)
    grid = centre_form(level[:, :, 0])[0]  # (H, W, 2)
    dx = (grid[0, :, 0] - centres[..., :1]).square()  # (B, n, W)
    dy = (grid[:, 0, 1] - centres[..., 1:]).square()  # (B, n, H)
    # The nearest cells are among the crossings of as many nearest rows and columns. These are sorted by index again,
    # and every sort is stable, so that the first of equals is taken.
    column = dx.sort(stable=True).indices[..., :cells].sort().values
    row = dy.sort(stable=True).indices[..., :cells].sort().values
    distance = dy.gather(2, row)[..., :, None] + dx.gather(2, column)[..., None, :]
    cell = (row[..., :, None] * columns + column[..., None, :]).flatten(2)
    cell = cell.gather(2, distance.flatten(2).sort(stable=True).indices[..., :cells])  # (B, n, cells)
    return (cell[..., None] * a + torch.arange(a, device=level.device)).flatten(2)[..., :count]


def _claimed_iou(candidates: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU of the candidates (B, n, C, 4) of boxes (B, n, 4) that are positive, 0 for the others: (B, n, C)."""
    gt_boxes = gt_boxes[:, :, None]
    intersection, union = overlap(candidates, gt_boxes)
    iou = intersection / union
    # Sample deviation, as in the authors' code; for a single candidate that would be NaN.
    deviation = iou.std(dim=2, correction=min(1, iou.shape[2] - 1), keepdim=True)
    threshold = iou.mean(dim=2, keepdim=True) + deviation - IOU_ROUNDING
    centres = centre_form(candidates)[0]
    margins = torch.cat([centres - gt_boxes[..., :2], gt_boxes[..., 2:] - centres], dim=-1)
    return iou * ((iou >= threshold) & (margins.amin(dim=-1) > INSIDE))


def _best_claims(candidates: Tensor, claimed_iou: Tensor, num_anchors: int) -> tuple[Tensor, Tensor]:
    """Largest claimed IoU of each anchor, 0 without a claim, and the box that claims it: (B, A) each.

    Args:
        candidates: (B, n, C) indices of anchors.
        claimed_iou: (B, n, C), 0 where a candidate is not positive.
        num_anchors: A.
    """
    batch, num_boxes, _ = candidates.shape
    anchor, iou = candidates.flatten(1), claimed_iou.flatten(1)
    best = iou.new_zeros(batch, num_anchors).scatter_reduce_(1, anchor, iou, "amax")
    owner = torch.arange(num_boxes, device=iou.device)[:, None].expand(candidates.shape).flatten(1)
    owner = torch.where(iou == best.gather(1, anchor), owner, num_boxes - 1)  # of equals, the first
    index = anchor.new_full(best.shape, num_boxes - 1).scatter_reduce_(1, anchor, owner, "amin")
    return best, index


def _outside_crowds(anchors: list[Tensor], targets: Targets, ignore_ioa: float) -> Tensor:
    """Whether each anchor has less than `ignore_ioa` of its area in any crowd region: (B, A), or () if all have."""
    if not targets.has_crowd or ignore_ioa == 0:
        return torch.ones((), dtype=torch.bool, device=targets.boxes.device)
    # Without objects, every anchor outside the crowd regions is negative.
    crowds = targets._replace(is_object=torch.zeros_like(targets.is_object))
    return assign(anchors, crowds, low_quality_matches=False, ignore_ioa=ignore_ioa).negative
