"""Shrink an image that is read in windows, a few rows at a time."""

import torch
from torch import Tensor

from retinanet.formats.images.windows import Window, WindowSource

BAND_PIXELS = 1 << 22  # read at a time, in whole rows


def read_reduced(source: WindowSource, size: tuple[int, int], window: Window | None = None) -> Tensor:
    """Return an image, or a window of it, reduced to a height and width by area averaging: uint8 (C, height, width).

    Each pixel is the mean, rounded, of all pixels that its area touches, as in `interpolate(mode="area")`.
    Besides the result, the memory holds the rows of `BAND_PIXELS` pixels, or those of one row of the result.

    Args:
        size: height and width of the result, at most those of the window.
    """
    left, top, right, bottom = window or Window(0, 0, source.size[1], source.size[0])
    if (bottom - top, right - left) == size:
        return source.read(Window(left, top, right, bottom))
    rows, columns = _spans(bottom - top, size[0]), _spans(right - left, size[1])
    at_once = max(1, BAND_PIXELS * size[0] // ((right - left) * (bottom - top)))  # rows of the result
    bands = []
    for some in rows.split(at_once):
        start, end = int(some[0, 0]), int(some[-1, 1])
        pixels = source.read(Window(left, top + start, right, top + end))
        sums = _sums(_sums(pixels, some - start, dim=1).long(), columns, dim=2)
        areas = (some[:, 1] - some[:, 0])[:, None] * (columns[:, 1] - columns[:, 0])
        bands.append(torch.div(2 * sums + areas, 2 * areas, rounding_mode="floor").to(torch.uint8))
    return torch.cat(bands, dim=1)


def fitting_size(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Shrink a height and width in proportion so that the longer side has at most `longer` pixels."""
    scale = min(1.0, longer / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _spans(length: int, count: int) -> Tensor:
    """First and last (exclusive) of the pixels that each of `count` equal parts of a side touches: int64 (count, 2)."""
    parts = torch.arange(count)
    return torch.stack([parts * length // count, ((parts + 1) * length + count - 1) // count], dim=1)


def _sums(values: Tensor, spans: Tensor, *, dim: int) -> Tensor:
    """Sum whole numbers (C, H, W) over spans of a dimension: int32, or int64 if the values are."""
    dtype = torch.int64 if values.dtype == torch.int64 else torch.int32
    zero = torch.zeros_like(values.narrow(dim, 0, 1), dtype=dtype)
    totals = torch.cat([zero, values.cumsum(dim, dtype=dtype)], dim)
    return totals.index_select(dim, spans[:, 1]) - totals.index_select(dim, spans[:, 0])
