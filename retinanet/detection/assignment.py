"""IoU-based anchor assignment: positive, negative or ignored, crowd regions included (Lin et al. 2017, section 4)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.detection.boxes import area, overlap
from retinanet.detection.grid_iou import AnchorGrid, best_matches
from retinanet.structures import Targets


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
        low_quality_matches: if no anchor has an IoU of at least `fg_iou` with an object, match the object to its
            highest-IoU anchors, including ties.
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
    return Assignment(gt_index, positive, negative)


@torch.no_grad()
def assign_reference(
    anchors: list[Tensor],
    targets: Targets,
    *,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality_matches: bool = True,
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
    return Assignment(gt_index, positive, negative)
