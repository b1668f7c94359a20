"""Which anchor learns what: object, background, or nothing (Lin et al. 2017, section 4)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.detection.boxes import area
from retinanet.structures import Targets

# (box, anchor) pairs looked at together: bounds memory for any number of boxes, and keeps a CPU inside its cache.
PAIRS_AT_ONCE = {"cpu": 2**19}
PAIRS_AT_ONCE_ELSEWHERE = 2**25
BOXES_AT_ONCE = 24  # a float32 holds one bit for each of them exactly
FLOAT32_FRACTION_BITS, FLOAT32_EXPONENT_OF_ONE = 23, 127


class Assignment(NamedTuple):
    """What each anchor learns; an anchor in neither mask is ignored."""

    gt_index: Tensor  # (B, A) int64, row of the targets, meaningful only where `positive`
    positive: Tensor  # (B, A) bool
    negative: Tensor  # (B, A) bool


Assign = Callable[[list[Tensor], Targets], Assignment]  # a rule, of anchors L x (H_l, W_l, a, 4) and B images


class _Block(NamedTuple):
    """Anchors that are looked at together: whole grids of one level, or some rows of one grid."""

    shapes: slice  # which of the a in a cell
    rows: slice  # in `_Axes.rows`
    columns: slice  # in `_Axes.columns`
    size: tuple[int, int, int]  # (a, H, W), of the block
    anchors: slice  # among all

    @property
    def length(self) -> int:
        return math.prod(self.size)


class _Axes(NamedTuple):
    """Anchors of all levels, taken apart: what lies in a column has its x, what lies in a row has its y.

    The overlap of a box with an anchor is the product of an overlap in x and one in y. So it is worked out for the
    columns and the rows, which are few, and for every anchor only multiplied. Anchors stand here in the order
    (level, a, y, x), in which whole rows are neighbours.
    """

    columns: Tensor  # (2, a, sum of W_l): left and right
    rows: Tensor  # (2, a, sum of H_l): top and bottom
    area: Tensor  # (A,), square pixels
    sizes: list[tuple[int, int, int]]  # (a, H_l, W_l)

    @property
    def lengths(self) -> list[int]:
        """Anchors of each level."""
        return [a * rows * columns for a, rows, columns in self.sizes]


class _Comparison(NamedTuple):
    """Some boxes of each image, seen by its anchors."""

    best_iou: Tensor  # (b, A)
    best_row: Tensor  # (b, A), as a float: exact for 16 million boxes an image
    closest: Tensor  # (b, A) int32, one bit for each of the boxes that no anchor overlaps more; 0 where there is none


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
        anchors: L x (H_l, W_l, a, 4), float32 pixels, a grid on each level with one a for all: the x of an anchor
            depends on its column and its place in the cell alone, the y on its row and that. Any boxes are a grid of
            one cell, (1, 1, A, 4).
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
    count = len(axes.area)
    pairs = PAIRS_AT_ONCE.get(axes.area.device.type, PAIRS_AT_ONCE_ELSEWHERE)
    boxes_at_once = max(1, min(BOXES_AT_ONCE, num_boxes))
    images_at_once = max(1, min(pairs // (boxes_at_once * count), batch))
    blocks = _blocks(axes, pairs // (boxes_at_once * images_at_once))
    check_crowds = targets.has_crowd and ignore_ioa > 0

    gt_index = torch.empty(batch, count, dtype=torch.int64, device=axes.area.device)
    positive, negative = (torch.empty_like(gt_index, dtype=torch.bool) for _ in range(2))
    for images in (slice(start, start + images_at_once) for start in range(0, batch, images_at_once)):
        best_iou = axes.area.new_zeros(gt_index[images].shape)
        best_row = torch.zeros_like(best_iou)
        closest = torch.zeros_like(best_iou, dtype=torch.int32)
        in_crowd = torch.zeros_like(best_iou)  # square pixels inside one crowd region
        for start in range(0, num_boxes, boxes_at_once):
            rows = slice(start, start + boxes_at_once)
            boxes = targets.boxes[images, rows]
            chunk = _compare(boxes, targets.is_object[images, rows], start, axes, blocks)
            # Comparisons are written as 0 or 1, here and below: a CPU does not vectorise those that write booleans.
            best_row.lerp_(chunk.best_row, torch.gt(chunk.best_iou, best_iou, out=torch.empty_like(best_iou)))
            torch.maximum(best_iou, chunk.best_iou, out=best_iou)
            closest |= chunk.closest
            if check_crowds:
                shared = _most_shared(boxes, targets.is_crowd[images, rows], axes, blocks)
                torch.maximum(in_crowd, shared, out=in_crowd)

        is_positive = best_iou.clone().ge_(fg_iou)
        if low_quality_matches:
            torch.maximum(is_positive, closest.clamp_(max=1).to(is_positive.dtype), out=is_positive)
        is_negative = best_iou.lt_(bg_iou).gt_(is_positive)  # below, and not positive
        if check_crowds:
            is_negative *= in_crowd < ignore_ioa * axes.area
        for values, out in ((best_row, gt_index), (is_positive, positive), (is_negative, negative)):
            _put_in_order(values, axes, out[images])
    return Assignment(gt_index, positive, negative)


def _take_apart(anchors: list[Tensor]) -> _Axes:
    columns = [level[0, :, :, 0::2].permute(2, 1, 0) for level in anchors]
    rows = [level[:, 0, :, 1::2].permute(2, 1, 0) for level in anchors]
    areas = [area(level).permute(2, 0, 1).flatten() for level in anchors]
    sizes = [(level.shape[2], level.shape[0], level.shape[1]) for level in anchors]
    return _Axes(torch.cat(columns, dim=2), torch.cat(rows, dim=2), torch.cat(areas), sizes)


def _blocks(axes: _Axes, most: int) -> list[_Block]:
    """All anchors, in their order, by at most `most` of them, or by a row where even that is more."""
    blocks = []
    first_row = first_column = first_anchor = 0
    for a, rows, columns in axes.sizes:
        shapes_at_once = _even_share(a, most // (rows * columns))
        rows_at_once = _even_share(rows, most // columns)
        for shape in range(0, a, shapes_at_once):
            shapes = slice(shape, min(shape + shapes_at_once, a))
            for row in range(0, rows, rows_at_once):
                size = (shapes.stop - shape, min(rows_at_once, rows - row), columns)
                here = slice(first_row + row, first_row + row + size[1])
                across = slice(first_column, first_column + columns)
                blocks.append(_Block(shapes, here, across, size, slice(first_anchor, first_anchor + math.prod(size))))
                first_anchor += math.prod(size)
        first_row += rows
        first_column += columns
    return blocks


def _even_share(count: int, most: int) -> int:
    """The size of the fewest parts of `count` that are all about as large, and at most `most` if that is 1 or more."""
    return math.ceil(count / math.ceil(count / max(1, most)))


def _compare(boxes: Tensor, is_object: Tensor, first_row: int, axes: _Axes, blocks: list[_Block]) -> _Comparison:
    """Boxes (b, n, 4), of which those that are an object (b, n) count, with all anchors; n <= `BOXES_AT_ONCE`.

    Which of the boxes something holds for is a number with a bit for each of them, the first one the highest: the sum
    of powers of two over a 0 or 1 for each pair. That is a product with a vector: one pass, exact in any precision of
    the factors.
    """
    batch, num_boxes = is_object.shape
    widths, heights = _overlaps(boxes, is_object, axes)
    box_area = area(boxes)[..., None]
    bits = torch.exp2(torch.arange(num_boxes - 1, -1, -1, dtype=boxes.dtype, device=boxes.device))
    bits = bits.expand(batch, 1, num_boxes)
    lengths = [block.length for block in blocks]
    largest = batch * num_boxes * max(lengths)
    shared_memory, union_memory = boxes.new_empty(largest), boxes.new_empty(largest)  # the blocks take turns in it
    best_iou = boxes.new_empty(batch, 1, len(axes.area))
    best_bits, closest_bits = torch.empty_like(best_iou), torch.empty_like(best_iou)
    highest = []  # for each block, the IoU of a box with any of its anchors: (b, n, 1)
    wholes = (axes.area, best_iou, best_bits, closest_bits)
    parts = zip(blocks, *(whole.split(lengths, dim=-1) for whole in wholes), strict=True)
    for block, anchor_area, block_best, block_best_bits, block_closest_bits in parts:
        shape = (batch, num_boxes, block.length)
        iou = shared_memory[: math.prod(shape)].view(shape)
        union = union_memory[: math.prod(shape)].view(shape)
        _multiply(widths, heights, block, out=iou)
        torch.add(anchor_area, box_area, out=union)
        union -= iou
        iou /= union
        torch.amax(iou, dim=1, keepdim=True, out=block_best)
        torch.bmm(bits, torch.eq(iou, block_best, out=union), out=block_best_bits)
        highest.append(iou.amax(dim=2, keepdim=True))
        torch.bmm(bits, torch.eq(iou, highest[-1], out=union), out=block_closest_bits)

    # The exponent of the sum is the place of its highest bit, which is the first of equals.
    exponent = (best_bits.view(torch.int32) >> FLOAT32_FRACTION_BITS).sub_(FLOAT32_EXPONENT_OF_ONE)
    best_row = exponent.neg_().add_(first_row + num_boxes - 1).to(boxes.dtype)
    # A box is closest to anchors of those blocks alone that hold its highest IoU of all. Padding, and boxes that touch
    # no anchor, are close to none.
    highest = torch.cat(highest, dim=2)
    holds_closest = (highest == highest.amax(dim=2, keepdim=True)) & (highest > 0)
    valid = (bits.mT * holds_closest).sum(dim=1).int()  # (b, number of blocks)
    closest = closest_bits[:, 0].int()
    for i, block in enumerate(blocks):
        closest[:, block.anchors] &= valid[:, i, None]
    return _Comparison(best_iou[:, 0], best_row[:, 0], closest)


def _most_shared(boxes: Tensor, counted: Tensor, axes: _Axes, blocks: list[_Block]) -> Tensor:
    """(b, A) square pixels that an anchor shares with one of the boxes (b, n, 4) that are `counted` (b, n)."""
    widths, heights = _overlaps(boxes, counted, axes)
    most = boxes.new_empty(len(boxes), len(axes.area))
    for block in blocks:
        shared = boxes.new_empty(*counted.shape, block.length)
        _multiply(widths, heights, block, out=shared)
        torch.amax(shared, dim=1, out=most[:, block.anchors])
    return most


def _overlaps(boxes: Tensor, counted: Tensor, axes: _Axes) -> tuple[Tensor, Tensor]:
    """Of boxes (b, n, 4) with all columns and rows: (b, n, a, sum of W_l or H_l), pixels; 0 where not `counted`."""
    x1, y1, x2, y2 = boxes[..., None, None].unbind(2)  # (b, n, 1, 1) each
    widths = torch.minimum(x2, axes.columns[1]).sub_(torch.maximum(x1, axes.columns[0])).clamp_(min=0)
    widths *= counted[..., None, None]
    heights = torch.minimum(y2, axes.rows[1]).sub_(torch.maximum(y1, axes.rows[0])).clamp_(min=0)
    return widths, heights


def _multiply(widths: Tensor, heights: Tensor, block: _Block, *, out: Tensor) -> None:
    """The shared areas (b, n, anchors of the block), from the overlaps with all columns and rows."""
    w, h = widths[:, :, block.shapes, block.columns], heights[:, :, block.shapes, block.rows]
    torch.mul(w[..., None, :], h[..., None], out=out.view(*out.shape[:2], *block.size))


def _put_in_order(values: Tensor, axes: _Axes, out: Tensor) -> None:
    """(b, A), from the order (level, a, y, x) to that of the grids, (level, y, x, a)."""
    levels = zip(values.split(axes.lengths, dim=1), out.split(axes.lengths, dim=1), axes.sizes, strict=True)
    for level, target, (a, rows, columns) in levels:
        target.unflatten(1, (rows, columns, a)).copy_(level.unflatten(1, (a, rows, columns)).permute(0, 2, 3, 1))
