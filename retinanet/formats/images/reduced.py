"""Shrink an image that is read in windows, a few rows at a time."""

import torch
from torch import Tensor

from retinanet.formats.images.windows import Window, WindowSource

BAND_PIXELS = 1 << 20  # read at a time, in whole rows


def read_reduced(source: WindowSource, size: tuple[int, int], window: Window | None = None) -> Tensor:
    """Return an image, or a window of it, reduced to a height and width by area averaging: uint8 (C, height, width).

    Each pixel is the mean, rounded, of all pixels that its area touches, as in `interpolate(mode="area")`.
    Besides the result, only the rows with `BAND_PIXELS` pixels, or those of one row of the result, are in memory.

    Args:
        size: height and width of the result, at most those of the window.
    """
    left, top, right, bottom = window or Window(0, 0, source.size[1], source.size[0])
    if (bottom - top, right - left) == size:
        return source.read(Window(left, top, right, bottom))
    rows, columns = _spans(bottom - top, size[0]), _spans(right - left, size[1])
    at_once = max(1, BAND_PIXELS * size[0] // ((right - left) * (bottom - top)))  # rows of the result
    result: Tensor | None = None
    for first in range(0, size[0], at_once):
        some = rows[first : first + at_once]
        start, end = int(some[0, 0]), int(some[-1, 1])
        pixels = source.read(Window(left, top + start, right, top + end))
        areas = (some[:, 1] - some[:, 0])[:, None] * (columns[:, 1] - columns[:, 0])
        sums = _column_sums(_row_sums(pixels, some - start), columns)
        if result is None:
            result = torch.empty((len(pixels), *size), dtype=torch.uint8)
        result[:, first : first + at_once] = torch.div(2 * sums + areas, 2 * areas, rounding_mode="floor")
    assert result is not None
    return result


def fitting_size(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Shrink a height and width in proportion so that the longer side has at most `longer` pixels."""
    scale = min(1.0, longer / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _spans(length: int, count: int) -> Tensor:
    """First and last (exclusive) of the pixels that each of `count` equal parts of a side touches: int64 (count, 2)."""
    parts = torch.arange(count)
    return torch.stack([parts * length // count, ((parts + 1) * length + count - 1) // count], dim=1)


def _row_sums(pixels: Tensor, spans: Tensor) -> Tensor:
    """Sum the rows of each span: (C, H, W) uint8 to (C, spans, W) int32."""
    return torch.stack([pixels[:, start:end].sum(dim=1, dtype=torch.int32) for start, end in spans.tolist()], dim=1)


def _column_sums(values: Tensor, spans: Tensor) -> Tensor:
    """Sum the columns of each span: (C, H, W) to (C, H, spans) int64."""
    totals = torch.nn.functional.pad(values.cumsum(dim=2), (1, 0))
    return totals[:, :, spans[:, 1]] - totals[:, :, spans[:, 0]]
