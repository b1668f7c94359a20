"""IoU-based anchor assignment: positive, negative or ignored, crowd regions included (Lin et al. 2017, section 4)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.detection.boxes import area, centre_form, overlap
from retinanet.detection.grid_iou import AnchorGrid, best_matches
from retinanet.detection.nearest import nearest_anchors
from retinanet.structures import Targets

NEAREST_CELLS = 9  # per level: cells whose anchors `match_unmatched_objects` considers
OBJECTS_AT_ONCE = 256  # per image; limits memory use regardless of the number of boxes


class Assignment(NamedTuple):
    """Training targets of the anchors; an anchor in neither mask is ignored."""

    gt_index: Tensor  # (B, A) int64, index of the matched box in the targets; valid only where `positive`
    positive: Tensor  # (B, A) bool
    negative: Tensor  # (B, A) bool


# Signature of an assignment rule; its arguments are anchors L x (H_l, W_l, a, 4) and the targets of B images.
Assign = Callable[[list[Tensor], Targets], Assignment]


@torch.no_grad()
def assign(
    anchors: list[Tensor],
    targets: Targets,
    *,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality_matches: bool = True,
    match_every_object: bool = False,
    ignore_ioa: float = 0.5,
) -> Assignment:
    """Match every anchor of every image to at most one ground-truth box, without synchronising the device.

    Gives the same result as `assign_reference`, but uses the kernel in `grid_iou.py`.

    Args:
        anchors: L x (H_l, W_l, a, 4), float32 pixels. Each level is a grid, and all have the same a: the x coordinates
            of an anchor depend only on its column and its index within the cell, its y coordinates only on its row and
            that index. Arbitrary boxes can be passed as a grid of one cell, (1, 1, A, 4).
        targets: ground truth of B images. In an image without objects, every anchor is negative.
        fg_iou: anchors with at least this IoU are positive.
        bg_iou: anchors below this IoU are negative; those in between are ignored.
        low_quality_matches: the anchors with the highest IoU with an object, including ties, are always positive.
            As in torchvision, such an anchor is still matched to the object that it overlaps most, which may be a
            neighbour: an object can end up without any anchor.
        match_every_object: match such an object to one anchor; see `match_unmatched_objects`.
        ignore_ioa: ignore a negative anchor if at least this fraction of its area lies in a single crowd region; 0
            disables this and treats crowd regions as background.

    Returns: the assignment of the anchors of all levels, in grid order.
    """
    grid = AnchorGrid.of(anchors)
    gt_index = torch.empty(len(targets.boxes), len(grid.area), dtype=torch.int64, device=grid.area.device)
    positive, negative = torch.empty_like(gt_index, dtype=torch.bool), torch.empty_like(gt_index, dtype=torch.bool)
    has_crowd = targets.has_crowd and ignore_ioa > 0
    for best in best_matches(grid, targets, crowds=has_crowd):
        # Compute masks as 0 or 1: on a CPU, comparisons that write booleans are not vectorised.
        is_positive = best.iou.clone().ge_(fg_iou)
        if low_quality_matches:
            torch.maximum(is_positive, best.closest_to.clamp_(max=1).to(is_positive.dtype), out=is_positive)
        is_negative = best.iou.lt_(bg_iou).gt_(is_positive)  # below bg_iou, and not positive
        if has_crowd:
            is_negative *= best.crowd_area < ignore_ioa * grid.area
        for values, out in ((best.row, gt_index), (is_positive, positive), (is_negative, negative)):
            grid.write_in_anchor_order(values, out[best.images])
    assignment = Assignment(gt_index, positive, negative)
    return match_unmatched_objects(assignment, anchors, targets) if match_every_object else assignment


@torch.no_grad()
def assign_reference(
    anchors: list[Tensor],
    targets: Targets,
    *,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality_matches: bool = True,
    match_every_object: bool = False,
    ignore_ioa: float = 0.5,
) -> Assignment:
    """Readable reference for `assign` that accepts arbitrary anchors.

    Computes a value for every (box, anchor) pair, (B, N, A), with N at least 1.
    """
    boxes = torch.cat([level.reshape(-1, 4) for level in anchors])  # (A, 4)
    intersection, union = overlap(targets.boxes[:, :, None], boxes)  # (B, N, A)
    iou = intersection / union * targets.is_object[..., None]
    best_iou, gt_index = iou.max(dim=1)  # (B, A) each; ties go to the first box
    positive = best_iou >= fg_iou
    if low_quality_matches:
        # Without `iou > 0`, padding and boxes that overlap no anchor would match every anchor.
        closest = (iou == iou.amax(dim=2, keepdim=True)) & (iou > 0)
        positive |= closest.any(dim=1)
    negative = (best_iou < bg_iou) & ~positive
    if ignore_ioa > 0:
        crowd_area = (intersection * targets.is_crowd[..., None]).amax(dim=1)
        negative &= crowd_area < ignore_ioa * area(boxes)
    assignment = Assignment(gt_index, positive, negative)
    return match_unmatched_objects(assignment, anchors, targets) if match_every_object else assignment


def match_unmatched_objects(assignment: Assignment, anchors: list[Tensor], targets: Targets) -> Assignment:
    """Match one anchor to every object that has none, without synchronising the device.

    These objects are processed in row order. Each takes the anchor with which it has the highest IoU, even if that
    anchor is matched to another object. It never takes the best anchor of another object, which is the one with the
    highest IoU among those matched to that object (or any anchor tied with it). An object considers the anchors in
    the `NEAREST_CELLS` cells of each level that are nearest to its centre. It remains without an anchor only if it
    overlaps none of these, or if all are the best anchors of other objects.

    Args:
        assignment: result of `assign` for the anchors and targets.
        anchors: L x (H_l, W_l, a, 4), float32 pixels. The anchors of a cell must share a centre, unless it is the only
            cell of its level.
        targets: ground truth of B images.
    """
    boxes = torch.cat([level.reshape(-1, 4) for level in anchors])  # (A, 4)
    num_rows, per_level = targets.is_object.shape[1], NEAREST_CELLS * anchors[0].shape[2]
    matched = targets.boxes.gather(1, assignment.gt_index[..., None].expand(-1, -1, 4))  # (B, A, 4)
    iou = _iou(matched, boxes) * assignment.positive
    best = torch.zeros_like(targets.boxes[..., 0]).scatter_reduce_(1, assignment.gt_index, iou, "amax")  # (B, N)
    waiting = targets.is_object & (best == 0)
    taken = assignment.positive & (iou == best.gather(1, assignment.gt_index))
    chosen = []  # per row, the index of its new anchor: (B, 1); A if it gets none
    for start in range(0, num_rows, OBJECTS_AT_ONCE):
        objects = targets.boxes[:, start : start + OBJECTS_AT_ONCE]
        candidates = nearest_anchors(anchors, centre_form(objects)[0], per_level)  # (B, n, C)
        candidate_iou = _iou(boxes[candidates], objects[:, :, None]) * waiting[:, start : start + OBJECTS_AT_ONCE, None]
        for index, row_iou in zip(candidates.unbind(1), candidate_iou.unbind(1), strict=True):
            highest, position = (row_iou * ~taken.gather(1, index)).max(dim=1, keepdim=True)  # ties go to the first
            anchor = index.gather(1, position)
            taken.scatter_(1, anchor, taken.gather(1, anchor) | (highest > 0))
            chosen.append(anchor.where(highest > 0, len(boxes)))
    anchor = torch.cat(chosen, dim=1)  # (B, N); distinct except for A, an extra column that is dropped below
    rows = torch.arange(num_rows, device=anchor.device).expand_as(anchor)
    new_row = anchor.new_full((len(anchor), len(boxes) + 1), -1).scatter_(1, anchor, rows)[:, :-1]
    is_new = new_row >= 0
    return Assignment(
        new_row.where(is_new, assignment.gt_index), assignment.positive | is_new, assignment.negative & ~is_new
    )


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    intersection, union = overlap(boxes, others)
    return intersection / union
