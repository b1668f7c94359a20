"""Optimised kernel for IoU assignment: overlaps of ground-truth boxes with anchor grids, in bounded memory.

`assign_reference` in `assignment.py` defines the rule with one value per (box, anchor) pair. This kernel computes the
same floats without ever storing all pairs. It exploits the grid: the intersection of a box with an anchor is the
overlap in x, which depends only on the anchor's column and its index within the cell, times the overlap in y, which
depends only on its row and that index. There are few columns and rows, so for each anchor only the multiplication
remains.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.detection.boxes import area
from retinanet.structures import Targets

# (box, anchor) pairs processed at a time. This limits memory use regardless of the number of boxes, and keeps the data
# in cache on a CPU.
PAIRS_AT_ONCE = {"cpu": 2**19}
PAIRS_AT_ONCE_ELSEWHERE = 2**25
BOXES_AT_ONCE = 24  # a float32 represents one bit for each of them exactly
FLOAT32_FRACTION_BITS, FLOAT32_EXPONENT_OF_ONE = 23, 127


class AnchorGrid(NamedTuple):
    """Anchors of all levels, split into columns (x) and rows (y).

    The kernel orders anchors by (level, a, y, x), so that whole rows are contiguous.
    """

    columns: Tensor  # (2, a, sum of W_l): left and right
    rows: Tensor  # (2, a, sum of H_l): top and bottom
    area: Tensor  # (A,), square pixels, in the kernel's order
    sizes: list[tuple[int, int, int]]  # (a, H_l, W_l)

    @classmethod
    def of(cls, anchors: list[Tensor]) -> "AnchorGrid":
        """Split grids L x (H_l, W_l, a, 4) into columns and rows."""
        columns = [level[0, :, :, 0::2].permute(2, 1, 0) for level in anchors]
        rows = [level[:, 0, :, 1::2].permute(2, 1, 0) for level in anchors]
        areas = [area(level).permute(2, 0, 1).flatten() for level in anchors]
        sizes = [(level.shape[2], level.shape[0], level.shape[1]) for level in anchors]
        return cls(torch.cat(columns, dim=2), torch.cat(rows, dim=2), torch.cat(areas), sizes)

    @property
    def lengths(self) -> list[int]:
        """Number of anchors on each level."""
        return [a * rows * columns for a, rows, columns in self.sizes]

    def write_in_anchor_order(self, values: Tensor, out: Tensor) -> None:
        """Copy values (b, A) from the kernel's order to `out` (b, A) in grid order, (level, y, x, a)."""
        levels = zip(values.split(self.lengths, dim=1), out.split(self.lengths, dim=1), self.sizes, strict=True)
        for source, target, (a, rows, columns) in levels:
            target.unflatten(1, (rows, columns, a)).copy_(source.unflatten(1, (a, rows, columns)).permute(0, 2, 3, 1))


class BestMatches(NamedTuple):
    """Best overlaps of the anchors with the ground truth of b images, in the kernel's anchor order."""

    images: slice  # range in the batch
    iou: Tensor  # (b, A), highest IoU with an object, 0 without one
    row: Tensor  # (b, A), the first object with that IoU, as a float: exact for up to 16 million boxes per image
    closest_to: Tensor  # (b, A) int32, non-zero for anchors that have the highest IoU with some object
    crowd_area: Tensor  # (b, A), largest intersection with any one crowd region, square pixels; 0 if not requested


class _Block(NamedTuple):
    """Anchors processed together: one or more anchor shapes on a whole level, or some rows of one shape."""

    shapes: slice  # which of the a anchors in a cell
    rows: slice  # range in `AnchorGrid.rows`
    columns: slice  # range in `AnchorGrid.columns`
    size: tuple[int, int, int]  # (a, H, W) of the block
    anchors: slice  # range among all anchors, in the kernel's order

    @property
    def length(self) -> int:
        return math.prod(self.size)


class _Comparison(NamedTuple):
    """Overlaps of all anchors with a chunk of each image's boxes."""

    best_iou: Tensor  # (b, A)
    best_row: Tensor  # (b, A)
    closest_to: Tensor  # (b, A) int32, one bit per box, set for the anchors with the highest IoU with it


def best_matches(grid: AnchorGrid, targets: Targets, *, crowds: bool) -> Iterator[BestMatches]:
    """Compare all anchors with the ground truth, a few images at a time, without synchronising the device.

    Args:
        grid: the anchors.
        targets: ground truth of B images.
        crowds: whether to compute `crowd_area`.
    """
    batch, num_boxes = targets.is_object.shape
    count = len(grid.area)
    pairs = PAIRS_AT_ONCE.get(grid.area.device.type, PAIRS_AT_ONCE_ELSEWHERE)
    boxes_at_once = max(1, min(BOXES_AT_ONCE, num_boxes))
    images_at_once = max(1, min(pairs // (boxes_at_once * count), batch))
    blocks = _blocks(grid, pairs // (boxes_at_once * images_at_once))
    for images in (slice(start, start + images_at_once) for start in range(0, batch, images_at_once)):
        best_iou = grid.area.new_zeros(len(targets.boxes[images]), count)
        best_row = torch.zeros_like(best_iou)
        closest_to = torch.zeros_like(best_iou, dtype=torch.int32)
        crowd_area = torch.zeros_like(best_iou)
        for start in range(0, num_boxes, boxes_at_once):
            rows = slice(start, start + boxes_at_once)
            boxes = targets.boxes[images, rows]
            chunk = _compare(boxes, targets.is_object[images, rows], start, grid, blocks)
            # Write the comparison as 0 or 1: on a CPU, comparisons that write booleans are not vectorised.
            best_row.lerp_(chunk.best_row, torch.gt(chunk.best_iou, best_iou, out=torch.empty_like(best_iou)))
            torch.maximum(best_iou, chunk.best_iou, out=best_iou)
            closest_to |= chunk.closest_to
            if crowds:
                largest = _largest_intersection(boxes, targets.is_crowd[images, rows], grid, blocks)
                torch.maximum(crowd_area, largest, out=crowd_area)
        yield BestMatches(images, best_iou, best_row, closest_to, crowd_area)


def _blocks(grid: AnchorGrid, most: int) -> list[_Block]:
    """Split all anchors, in order, into blocks of at most `most` anchors. A longer row becomes its own block."""
    blocks = []
    first_row = first_column = first_anchor = 0
    for a, rows, columns in grid.sizes:
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
    """Chunk size that splits `count` into the fewest roughly equal chunks of at most `most` (at least 1)."""
    return math.ceil(count / math.ceil(count / max(1, most)))


def _compare(boxes: Tensor, is_object: Tensor, first_row: int, grid: AnchorGrid, blocks: list[_Block]) -> _Comparison:
    """Compare boxes (b, n, 4) with all anchors, except where `is_object` (b, n) is False; n is at most `BOXES_AT_ONCE`.

    A set of boxes is encoded as a number with one bit per box, where the first box has the highest bit. The number is
    the dot product of a vector of zeros and ones with a vector of powers of two, computed in one pass. It is exact even
    if the hardware rounds the factors to a lower precision.
    """
    batch, num_boxes = is_object.shape
    widths, heights = _overlaps(boxes, is_object, grid)
    box_area = area(boxes)[..., None]
    bits = torch.exp2(torch.arange(num_boxes - 1, -1, -1, dtype=boxes.dtype, device=boxes.device))
    bits = bits.expand(batch, 1, num_boxes)
    lengths = [block.length for block in blocks]
    largest = batch * num_boxes * max(lengths)
    iou_memory, union_memory = boxes.new_empty(largest), boxes.new_empty(largest)  # reused by every block
    best_iou = boxes.new_empty(batch, 1, len(grid.area))
    best_bits, closest_bits = torch.empty_like(best_iou), torch.empty_like(best_iou)
    highest = []  # per block, the highest IoU of each box with the block's anchors: (b, n, 1)
    wholes = (grid.area, best_iou, best_bits, closest_bits)
    parts = zip(blocks, *(whole.split(lengths, dim=-1) for whole in wholes), strict=True)
    for block, anchor_area, block_best, block_best_bits, block_closest_bits in parts:
        shape = (batch, num_boxes, block.length)
        iou = iou_memory[: math.prod(shape)].view(shape)
        union = union_memory[: math.prod(shape)].view(shape)
        _intersect(widths, heights, block, out=iou)
        torch.add(anchor_area, box_area, out=union)
        union -= iou
        iou /= union
        torch.amax(iou, dim=1, keepdim=True, out=block_best)
        torch.bmm(bits, torch.eq(iou, block_best, out=union), out=block_best_bits)
        highest.append(iou.amax(dim=2, keepdim=True))
        torch.bmm(bits, torch.eq(iou, highest[-1], out=union), out=block_closest_bits)

    # The exponent of the number is the position of its highest bit, which belongs to the first of the tied boxes.
    exponent = (best_bits.view(torch.int32) >> FLOAT32_FRACTION_BITS).sub_(FLOAT32_EXPONENT_OF_ONE)
    best_row = exponent.neg_().add_(first_row + num_boxes - 1).to(boxes.dtype)
    # A block contains a box's closest anchors only if the highest IoU in the block is the box's highest IoU overall.
    # Padding and boxes that overlap no anchor have no closest anchors.
    highest = torch.cat(highest, dim=2)
    has_closest = (highest == highest.amax(dim=2, keepdim=True)) & (highest > 0)
    block_bits = (bits.mT * has_closest).sum(dim=1).int()  # (b, number of blocks)
    closest_to = closest_bits[:, 0].int()
    for i, block in enumerate(blocks):
        closest_to[:, block.anchors] &= block_bits[:, i, None]
    return _Comparison(best_iou[:, 0], best_row[:, 0], closest_to)


def _largest_intersection(boxes: Tensor, mask: Tensor, grid: AnchorGrid, blocks: list[_Block]) -> Tensor:
    """Largest intersection (b, A) of each anchor with any of the boxes (b, n, 4) in the mask (b, n), square pixels."""
    widths, heights = _overlaps(boxes, mask, grid)
    largest = boxes.new_empty(len(boxes), len(grid.area))
    for block in blocks:
        intersection = boxes.new_empty(*mask.shape, block.length)
        _intersect(widths, heights, block, out=intersection)
        torch.amax(intersection, dim=1, out=largest[:, block.anchors])
    return largest


def _overlaps(boxes: Tensor, mask: Tensor, grid: AnchorGrid) -> tuple[Tensor, Tensor]:
    """Overlaps in x with all columns and in y with all rows, in pixels: (b, n, a, sum of W_l or H_l).

    Widths are 0 for boxes (b, n, 4) outside the mask (b, n).
    """
    x1, y1, x2, y2 = boxes[..., None, None].unbind(2)  # (b, n, 1, 1) each
    widths = torch.minimum(x2, grid.columns[1]).sub_(torch.maximum(x1, grid.columns[0])).clamp_(min=0)
    widths *= mask[..., None, None]
    heights = torch.minimum(y2, grid.rows[1]).sub_(torch.maximum(y1, grid.rows[0])).clamp_(min=0)
    return widths, heights


def _intersect(widths: Tensor, heights: Tensor, block: _Block, *, out: Tensor) -> None:
    """Write the intersections with a block's anchors, in square pixels, to `out` (b, n, length)."""
    w, h = widths[:, :, block.shapes, block.columns], heights[:, :, block.shapes, block.rows]
    torch.mul(w[..., None, :], h[..., None], out=out.view(*out.shape[:2], *block.size))
