"""Scale images with more than 8 bits, or with signed or floating-point samples, to 0..255 (`data.value_range`).

`auto` chooses the range of each image from its own samples. The result is therefore the same in training, evaluation
and prediction, and independent of other images. The range starts at 0 and ends at the smallest of 255, 1023, 4095,
16383 and 65535 (8, 10, 12, 14 and 16 bits) that is not less than the maximum, or at 1 for a floating-point image
without larger values. Only a few ranges are thus possible, and most images of one sensor get the same one; `notes.py`
reports where they do not. An image with negative values, or with values above 65535, is scaled from its minimum to its
maximum. Up to three bands of a file share a range, which keeps the proportions of colours. If more bands are used, each
has its own range, because they may be in different units.

The TIFF tag MaxSampleValue and the PNG chunk sBIT are ignored: the former is a statistic that, according to the
specification, must not affect the display, and the latter is the number of exact bits in samples already scaled to 16.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from retinanet.config.data import Range, ValueRange

FULL_RANGES = (255, 1023, 4095, 16383, 65535)
MAX_SHARING = 3  # bands that share a range chosen by "auto"
BLOCK_BYTES = 1 << 22  # converted at a time, to keep temporary arrays small


class Samples(NamedTuple):
    """Decoded samples before scaling."""

    values: np.ndarray  # (H, W, N) with N bands, of any integer or floating-point type
    bits: int  # significant bits of integers, if fewer than the type has
    zero_is_white: bool = False
    nodata: float | None = None  # value of pixels without data, which become black

    def separate(self) -> list["Samples"]:
        """Return the N bands one by one, each with values (H, W, 1)."""
        return [self._replace(values=self.values[..., [band]]) for band in range(self.values.shape[-1])]


def band_ranges(samples: Samples, value_range: ValueRange) -> list[Range]:
    """Choose the values that become black and white, for each of the N bands.

    Args:
        value_range: `data.value_range`; if it has several ranges, band n uses the n-th.
    """
    count = samples.values.shape[-1]
    if value_range == "auto":
        return automatic_ranges([samples])
    ranges = each_range(value_range)
    return list(ranges[:count]) if len(ranges) > 1 else [ranges[0]] * count


def automatic_ranges(parts: Iterable[Samples]) -> list[Range]:
    """Choose the range of each band of an image that is decoded in parts, by the rules in the module docstring.

    Args:
        parts: at least one, all with the same bands and sample type.
    """
    ranges: list[Range] = []
    found: list[Range | None] = []  # minimum and maximum so far; up to `MAX_SHARING` bands share one
    for part in parts:
        count = part.values.shape[-1]
        bands = part.separate() if count > MAX_SHARING else [part]
        if _is_known(part):
            return [automatic_range(part)] * count
        found = found or [None] * len(bands)
        found = [_union(known, bounds(band)) for known, band in zip(found, bands, strict=True)]
        ranges = [_full_range(part.values.dtype, limits) for limits in found]
        if len(bands) == 1:
            ranges *= count
    return ranges


def each_range(value_range: Range | tuple[Range, ...]) -> list[Range]:
    """Return the ranges that `data.value_range` states: one for all channels, or one for each."""
    pairs = [pair for pair in value_range if isinstance(pair, tuple)]
    if pairs:
        return pairs
    low, high = value_range
    assert not isinstance(low, tuple) and not isinstance(high, tuple)
    return [(low, high)]


def automatic_range(samples: Samples) -> Range:
    """Choose the values that become black and white, as described in the module docstring."""
    if _is_known(samples):
        return 0, 2**samples.bits - 1
    return _full_range(samples.values.dtype, bounds(samples))


def bounds(samples: Samples) -> Range | None:
    """Return the minimum and maximum of the finite samples with data; None if there are none."""
    parts = [(part.min(), part.max()) for part in _blocks_with_data(samples) if part.size]
    if not parts:
        return None
    return float(min(minimum for minimum, _ in parts)), float(max(maximum for _, maximum in parts))


def scale_to_uint8(samples: Samples, value_range: ValueRange) -> np.ndarray:
    """Scale samples linearly to uint8 of the same shape: a range's lower end becomes 0, its upper end 255.

    Values outside the range are clipped. NaN and pixels without data become 0. Unsigned 8-bit samples are not scaled.
    """
    if samples.values.dtype == np.uint8:
        return 255 - samples.values if samples.zero_is_white else samples.values
    ranges = band_ranges(samples, value_range)
    if len(set(ranges)) > 1:
        return np.concatenate(
            [_scale(band, *one) for band, one in zip(samples.separate(), ranges, strict=True)], axis=2
        )
    return _scale(samples, *ranges[0])


def _is_known(samples: Samples) -> bool:
    """Whether the range follows from the number of significant bits, whatever the samples are."""
    return samples.values.dtype.kind != "f" and samples.bits < 8 * samples.values.dtype.itemsize


def _full_range(dtype: np.dtype, found: Range | None) -> Range:
    """Choose the range of samples with a known minimum and maximum; None if there are no samples."""
    if found is None:
        return 0, 1
    low, high = found
    if low < 0 or high > FULL_RANGES[-1]:
        return low, high
    return 0, next(full for full in ((1,) if dtype.kind == "f" else ()) + FULL_RANGES if high <= full)


def _union(first: Range | None, second: Range | None) -> Range | None:
    if first is None or second is None:
        return first or second
    return min(first[0], second[0]), max(first[1], second[1])


def _scale(samples: Samples, low: float, high: float) -> np.ndarray:
    values = samples.values
    if values.dtype == np.uint16:  # a lookup table is faster and gives the same result
        everything = samples._replace(values=np.arange(1 << 16, dtype=np.int64).reshape(-1, 1))
        return _scaled(everything, low, high).ravel()[values]
    return _scaled(samples, low, high)


def _blocks_with_data(samples: Samples) -> Iterator[np.ndarray]:
    for rows in _row_blocks(samples.values):
        part = samples.values[rows]
        if part.dtype.kind == "f":
            part = part[np.isfinite(part)]
        yield part if samples.nodata is None else part[part != samples.nodata]


def _scaled(samples: Samples, low: float, high: float) -> np.ndarray:
    values = samples.values
    result = np.empty(values.shape, np.uint8)
    for rows in _row_blocks(values):
        part, scaled = values[rows], result[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            clipped = np.clip(part.astype(np.float64), low, high)
            unit = (clipped - low) / (high - low) if high > low else np.zeros(part.shape)
            numbers = np.floor(np.nan_to_num(unit, nan=0.0) * 255 + 0.5)
        scaled[...] = 255 - numbers if samples.zero_is_white else numbers
        if part.dtype.kind == "f":
            scaled[np.isnan(part)] = 0
        if samples.nodata is not None:
            scaled[part == samples.nodata] = 0
    return result


def _row_blocks(values: np.ndarray) -> Iterator[slice]:
    rows = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    return (slice(start, start + rows) for start in range(0, len(values), rows))
