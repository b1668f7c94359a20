"""Which anchor learns what: object, background, or nothing (Lin et al. 2017, section 4)."""

from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.detection.boxes import area
from retinanet.structures import Targets

# (box, anchor) pairs looked at together: bounds memory for any number of boxes, and keeps a CPU inside its cache.
PAIRS_AT_ONCE = {"cpu": 2**21}
PAIRS_AT_ONCE_ELSEWHERE = 2**25


class Assignment(NamedTuple):
    """What each anchor learns; an anchor in neither mask is ignored."""

    gt_index: Tensor  # (B, A) int64, row of the targets, meaningful only where `positive`
    positive: Tensor  # (B, A) bool
    negative: Tensor  # (B, A) bool


class _Axes(NamedTuple):
    """Anchors of all levels, taken apart: what lies in a column has its x, what lies in a row has its y.

    The overlap of a box with an anchor is the product of an overlap in x and one in y. So it is worked out for the
    columns and the rows, which are few, and for every anchor only multiplied. Anchors stand here in the order
    (level, a, y, x), in which whole rows are neighbours.
    """

    columns: Tensor  # (2, a, sum of W_l): left and right
    rows: Tensor  # (2, a, sum of H_l): top and bottom
    sizes: list[tuple[int, int, int]]  # (a, H_l, W_l)

    @property
    def lengths(self) -> list[int]:
        """Anchors of each level."""
        return [a * rows * columns for a, rows, columns in self.sizes]


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
    """Match every anchor of every image to at most one ground-truth box, without reading the device.

    Args:
        anchors: L x (H_l, W_l, a, 4), pixels, a grid on each level with one a for all: the x of an anchor depends on
            its column and its place in the cell alone, the y on its row and that. Any boxes are a grid of one cell,
            (1, 1, A, 4).
        targets: ground truth of B images. Where an image has no object, every anchor is negative.
        fg_iou: an anchor is positive from this IoU upwards.
        bg_iou: an anchor is negative below this IoU; in between it is ignored.
        low_quality_matches: an object that no anchor covers by `fg_iou` still gets its closest anchors, ties included.
        ignore_ioa: a negative anchor with at least this share of its area in one crowd region is ignored; 0 switches
            it off, and the region is background.

    Returns: an assignment whose A counts the anchors of all levels in the order of the grids.
    """
    batch, num_boxes = targets.is_object.shape
    axes = _take_apart(anchors)
    anchor_area = torch.cat([area(level).permute(2, 0, 1).flatten() for level in anchors])
    count = len(anchor_area)
    best_iou = anchor_area.new_zeros(batch, count)
    best_row = torch.zeros_like(best_iou)  # as floats, exact for 16 million boxes an image
    # How far the IoU of an anchor is from the best that an object has with any: 0 for that object's closest anchors.
    gap = torch.full_like(best_iou, -1.0)
    check_crowds = targets.has_crowd and ignore_ioa > 0
    in_crowd = torch.zeros_like(best_iou)  # square pixels inside one crowd region

    most = PAIRS_AT_ONCE.get(anchor_area.device.type, PAIRS_AT_ONCE_ELSEWHERE) // count
    rows_at_once = max(1, min(most, num_boxes))
    images_at_once = max(1, min(most // rows_at_once, batch))
    for images in (slice(start, start + images_at_once) for start in range(0, batch, images_at_once)):
        for start in range(0, num_boxes, rows_at_once):
            rows = slice(start, start + rows_at_once)
            boxes = targets.boxes[images, rows]
            iou = _shared_area(boxes, targets.is_object[images, rows], axes)  # (b, n, A)
            union = anchor_area + area(boxes)[..., None]
            union -= iou
            iou /= union
            _take_better(best_iou[images], best_row[images], iou, start)
            if low_quality_matches:
                closest = iou.amax(dim=2, keepdim=True)
                # Padding, and boxes that touch no anchor, are close to none.
                iou -= torch.where(closest > 0, closest, 2.0)
                torch.maximum(gap[images], iou.amax(dim=1), out=gap[images])
            if check_crowds:
                shared = _shared_area(boxes, targets.is_crowd[images, rows], axes)
                torch.maximum(in_crowd[images], shared.amax(dim=1), out=in_crowd[images])

    positive = (best_iou >= fg_iou) | (gap == 0)
    negative = (best_iou < bg_iou) & ~positive
    if check_crowds:
        negative &= in_crowd < ignore_ioa * anchor_area
    return Assignment(
        _in_order(best_row, axes, torch.int64),
        _in_order(positive, axes, torch.bool),
        _in_order(negative, axes, torch.bool),
    )


def _take_apart(anchors: list[Tensor]) -> _Axes:
    columns = [level[0, :, :, 0::2].permute(2, 1, 0) for level in anchors]
    rows = [level[:, 0, :, 1::2].permute(2, 1, 0) for level in anchors]
    sizes = [(level.shape[2], level.shape[0], level.shape[1]) for level in anchors]
    return _Axes(torch.cat(columns, dim=2), torch.cat(rows, dim=2), sizes)


def _shared_area(boxes: Tensor, counted: Tensor, axes: _Axes) -> Tensor:
    """Of each box (b, n, 4) with each anchor: (b, n, A), square pixels; 0 where the box is not `counted` (b, n)."""
    x1, y1, x2, y2 = boxes[..., None, None].unbind(2)  # (b, n, 1, 1) each
    width = torch.minimum(x2, axes.columns[1]).sub_(torch.maximum(x1, axes.columns[0])).clamp_(min=0)
    width *= counted[..., None, None]
    height = torch.minimum(y2, axes.rows[1]).sub_(torch.maximum(y1, axes.rows[0])).clamp_(min=0)
    shared = boxes.new_empty(*counted.shape, sum(axes.lengths))
    widths = width.split([columns for _, _, columns in axes.sizes], dim=3)
    heights = height.split([rows for _, rows, _ in axes.sizes], dim=3)
    for level, w, h, size in zip(shared.split(axes.lengths, dim=2), widths, heights, axes.sizes, strict=True):
        torch.mul(w[..., None, :], h[..., None], out=level.view(*counted.shape, *size))
    return shared


def _take_better(best_iou: Tensor, best_row: Tensor, iou: Tensor, first_row: int) -> None:
    """Where a row of `iou` (b, n, A) is above `best_iou` (b, A), take it and its number. Of equals the first one stays.

    Without a comparison, which a CPU does not vectorise where it writes booleans: the sign of a difference is as exact.
    """
    chunk_iou = iou.amax(dim=1)
    chunk_row = torch.full_like(best_row, first_row)
    for row in range(iou.shape[1] - 1, -1, -1):  # backwards, so that of equals the first one is written last
        is_less = (chunk_iou - iou[:, row]).sign_()  # exactly 0 or 1
        number = chunk_row.new_full((), first_row + row)
        torch.lerp(number, chunk_row, is_less, out=chunk_row)
    torch.maximum(best_iou, chunk_iou, out=chunk_iou)
    is_better = (chunk_iou - best_iou).sign_()
    best_row.lerp_(chunk_row, is_better)
    best_iou.copy_(chunk_iou)


def _in_order(values: Tensor, axes: _Axes, dtype: torch.dtype) -> Tensor:
    """(B, A), from the order (level, a, y, x) to that of the grids, (level, y, x, a)."""
    ordered = torch.empty_like(values, dtype=dtype)
    levels = zip(values.split(axes.lengths, dim=1), ordered.split(axes.lengths, dim=1), axes.sizes, strict=True)
    for level, target, (a, rows, columns) in levels:
        target.unflatten(1, (rows, columns, a)).copy_(level.unflatten(1, (a, rows, columns)).permute(0, 2, 3, 1))
    return ordered
