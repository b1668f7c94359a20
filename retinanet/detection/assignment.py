"""IoU-based anchor assignment: positive, negative or ignored, crowd regions included (Lin et al. 2017, section 4)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.detection.boxes import area, overlap
from retinanet.detection.grid_iou import AnchorGrid, best_matches
from retinanet.structures import Targets


class Assignment(NamedTuple):
    """Training target of each anchor; an anchor in neither mask is ignored."""

    gt_index: Tensor  # (B, A) int64, row of the targets, meaningful only where `positive`
    positive: Tensor  # (B, A) bool
    negative: Tensor  # (B, A) bool


# An assignment rule: takes anchors L x (H_l, W_l, a, 4) and the targets of B images.
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
    """Match every anchor of every image to at most one ground-truth box, without device synchronisations.

    Equal to `assign_reference`, but computed by the kernel of `grid_iou.py`.

    Args:
        anchors: L x (H_l, W_l, a, 4), float32 pixels, a grid on each level with the same a: the x of an anchor depends
            only on its column and its place in the cell, its y only on its row and that place. Arbitrary boxes are a
            grid of one cell, (1, 1, A, 4).
        targets: ground truth of B images. Without objects, every anchor of an image is negative.
        fg_iou: an anchor is positive at this IoU or above.
        bg_iou: an anchor is negative below this IoU; in between it is ignored.
        low_quality_matches: match an object with no anchor at IoU >= `fg_iou` to its highest-IoU anchors, with ties.
        ignore_ioa: a negative anchor with at least this fraction of its area in one crowd region is ignored; 0 disables
            this, and the region is background.

    Returns: an assignment over the anchors of all levels in the order of the grids.
    """
    grid = AnchorGrid.of(anchors)
    gt_index = torch.empty(len(targets.boxes), len(grid.area), dtype=torch.int64, device=grid.area.device)
    positive, negative = torch.empty_like(gt_index, dtype=torch.bool), torch.empty_like(gt_index, dtype=torch.bool)
    has_crowd = targets.has_crowd and ignore_ioa > 0
    for best in best_matches(grid, targets, crowds=has_crowd):
        # Masks are computed as 0 or 1: a CPU does not vectorise comparisons that write booleans.
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
    """Readable reference for `assign`, for arbitrary boxes: computes every pair, (B, N, A), with N at least 1."""
    boxes = torch.cat([level.reshape(-1, 4) for level in anchors])  # (A, 4)
    intersection, union = overlap(targets.boxes[:, :, None], boxes)  # (B, N, A)
    iou = intersection / union * targets.is_object[..., None]
    best_iou, gt_index = iou.max(dim=1)  # (B, A) each; of equals, the first box
    positive = best_iou >= fg_iou
    if low_quality_matches:
        # Without `iou > 0`, padding and boxes that touch no anchor would claim every anchor.
        closest = (iou == iou.amax(dim=2, keepdim=True)) & (iou > 0)
        positive |= closest.any(dim=1)
    negative = (best_iou < bg_iou) & ~positive
    if ignore_ioa > 0:
        crowd_area = (intersection * targets.is_crowd[..., None]).amax(dim=1)
        negative &= crowd_area < ignore_ioa * area(boxes)
    return Assignment(gt_index, positive, negative)
