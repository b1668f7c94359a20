"""Anchors whose centres are nearest to given points, found on the anchor grids without comparing all pairs."""

import math

import torch
from torch import Tensor

from retinanet.detection.boxes import centre_form


def nearest_anchors(anchors: list[Tensor], points: Tensor, per_level: int) -> Tensor:
    """Indices of the `per_level` anchors of each level with the nearest centres, or of all if there are fewer.

    Args:
        anchors: L x (H_l, W_l, a, 4), one grid per level. The anchors of a cell must share a centre, like those of
            `AnchorGenerator`.
        points: (B, n, 2), x and y in pixels.
        per_level: number of anchors per point and level. Ties in distance go to the first anchor.

    Returns: (B, n, C), indices into the anchors of all levels in grid order, in ascending order of the level.
    """
    index_per_level, first = [], 0
    for level in anchors:
        index_per_level.append(first + _nearest(level, points, per_level))
        first += level[..., 0].numel()
    return torch.cat(index_per_level, dim=2)


def _nearest(level: Tensor, points: Tensor, count: int) -> Tensor:
    """Indices of the `count` nearest anchors of one grid (H, W, a, 4), or of all if there are fewer: (B, n, count)."""
    _, columns, a = level.shape[:3]
    cells = math.ceil(count / a)
    grid = centre_form(level[:, :, 0])[0]  # (H, W, 2)
    dx = (grid[0, :, 0] - points[..., :1]).square()  # (B, n, W)
    dy = (grid[:, 0, 1] - points[..., 1:]).square()  # (B, n, H)
    # The k nearest cells lie at the intersections of the k nearest rows and columns. Sort these by index again, and use
    # only stable sorts, so that ties go to the first anchor.
    column = dx.sort(stable=True).indices[..., :cells].sort().values
    row = dy.sort(stable=True).indices[..., :cells].sort().values
    distance = dy.gather(2, row)[..., :, None] + dx.gather(2, column)[..., None, :]
    cell = (row[..., :, None] * columns + column[..., None, :]).flatten(2)
    cell = cell.gather(2, distance.flatten(2).sort(stable=True).indices[..., :cells])  # (B, n, cells)
    return (cell[..., None] * a + torch.arange(a, device=level.device)).flatten(2)[..., :count]
