"""Anchors: the reference boxes that predictions are relative to (Lin et al. 2017, section 4)."""

import math

import torch
from torch import Tensor

from retinanet.config.model import AnchorRounding


class AnchorGenerator:
    """Generates the anchors of every pyramid level for a padded shape.

    Within a level, anchors are ordered by (y, x, aspect ratio, scale), with the scale varying fastest. The anchors in
    column x and row y are centred at ((x + offset) * stride, (y + offset) * stride).

    Args:
        strides: stride of each level, in pixels.
        sizes: anchor size on each level, in pixels: the square root of the area at scale 1.
        scales: factors applied to the sizes.
        aspect_ratios: height / width.
        offset: offset of the centres, in strides.
        rounding: "torchvision" reproduces torchvision's anchors, which weights trained with it expect: sizes are
            truncated and corners rounded to whole pixels, and the anchor spacing on a level is the padded size // the
            grid size.
    """

    def __init__(
        self,
        *,
        strides: tuple[int, ...] = (8, 16, 32, 64, 128),
        sizes: tuple[float, ...] = (32, 64, 128, 256, 512),
        scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        offset: float = 0.0,
        rounding: AnchorRounding = "none",
    ):
        assert len(strides) == len(sizes), (strides, sizes)
        self.strides = strides
        self.offset = offset
        self.rounding = rounding
        self.num_per_cell = len(scales) * len(aspect_ratios)
        self._cells = [cell_anchors(size, scales, aspect_ratios, rounding) for size in sizes]
        self._cache: dict[tuple[int, int, str], list[Tensor]] = {}

    def __call__(self, height: int, width: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """Return the anchors for an input of (height, width) pixels: L x (H_l, W_l, a, 4).

        Results are cached per shape and device, so callers share the tensors.
        """
        key = (height, width, str(device))
        if key not in self._cache:
            levels = range(len(self.strides))
            self._cache[key] = [self._level(height, width, level).to(device) for level in levels]
        return self._cache[key]

    def _level(self, height: int, width: int, level: int) -> Tensor:
        stride = self.strides[level]
        return self.on_grid(level, math.ceil(height / stride), math.ceil(width / stride), height, width)

    def on_grid(self, level: int, rows: int, columns: int, height: int, width: int) -> Tensor:
        """Compute the anchors of a level, given the size of its feature map: (rows, columns, a, 4).

        Args:
            level: position of the level, the finest first.
            height, width: size of the input in pixels.
        """
        if self.rounding == "torchvision":
            step_y, step_x = height // rows, width // columns
        else:
            step_y = step_x = self.strides[level]
        y = (torch.arange(rows, dtype=torch.float32) + self.offset) * step_y
        x = (torch.arange(columns, dtype=torch.float32) + self.offset) * step_x
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y, x, y], dim=-1)  # (rows, columns, 4)
        return centres[:, :, None] + self._cells[level]


def cell_anchors(
    size: float, scales: tuple[float, ...], aspect_ratios: tuple[float, ...], rounding: AnchorRounding
) -> Tensor:
    """Compute the anchors of one cell, centred on the origin: (ratios * scales, 4)."""
    scaled = torch.tensor([size * scale for scale in scales], dtype=torch.float64)
    if rounding == "torchvision":
        scaled = scaled.floor()
    root = torch.tensor(aspect_ratios, dtype=torch.float64).sqrt()
    if rounding == "torchvision":  # use torchvision's precision, to round halves the same way
        scaled, root = scaled.float(), torch.tensor(aspect_ratios).sqrt()
    heights = (root[:, None] * scaled).reshape(-1)
    widths = ((1 / root)[:, None] * scaled).reshape(-1)
    cells = torch.stack([-widths, -heights, widths, heights], dim=-1) / 2
    if rounding == "torchvision":
        cells = cells.round()
    return cells.float()
