"""Read windows of a TIFF file, decoding only the strips or tiles that they touch."""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from torch import Tensor

from retinanet.config.data import ValueRange
from retinanet.formats.images.decode import displayed
from retinanet.formats.images.opened import OpenedImage, open_image
from retinanet.formats.images.orientation import FLIPS, swaps_sides
from retinanet.formats.images.tiff_excerpt import TiffExcerpts
from retinanet.formats.images.value_range import Samples, automatic_ranges
from retinanet.formats.images.windows import Window

log = logging.getLogger(__name__)

# Decoded pixels to keep, because rows of windows overlap. This is enough to decode each strip or tile only once if
# the rows are up to 2900 pixels high, in an image that is 30,000 wide and has 3 channels.
CACHE_BYTES = 1 << 28


class TiffWindows:
    """The image in an open TIFF file, as a `WindowSource`; pixels are those of `OpenedImage.decode`.

    Args:
        opened: the file; only its header has been read.
        value_range, bands, channels: see `OpenedImage.decode`. With "auto", the first `read` decodes an image that is
            not 8-bit once, part by part, to find its range.
        cache_bytes: decoded pixels to keep; those of one strip or tile are always kept.

    Raises:
        ValueError: the file cannot be read in windows; the message says why.
    """

    def __init__(
        self,
        opened: OpenedImage,
        *,
        value_range: ValueRange,
        bands: Sequence[int] | None,
        channels: int,
        cache_bytes: int = CACHE_BYTES,
    ):
        if opened.tiff is None:
            raise ValueError(f"its format is {opened.header.format}")
        with opened.explaining_damage():
            opened.check_bands(bands, channels)
        self._opened = opened
        self._orientation = opened.header.orientation
        self._excerpts = TiffExcerpts(opened.file, opened.tiff, max_pixels=opened.max_pixels)
        self._value_range, self._bands, self._channels = value_range, bands, channels
        self._cache: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._cached_bytes = 0
        self._cache_bytes = cache_bytes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as displayed."""
        return self._opened.header.height, self._opened.header.width

    def read(self, window: Window) -> Tensor:
        """Return the pixels in a window inside the image: contiguous uint8 (C, height, width).

        Raises:
            InputError: a strip or tile is damaged.
        """
        pixels = self._read_stored(_as_stored(window, self.size, self._orientation))
        return displayed(pixels, self._orientation).contiguous()

    def _read_stored(self, window: Window) -> Tensor:
        result = torch.empty((self._channels, *window.size), dtype=torch.uint8)
        rows, columns = self._excerpts.size
        for row in range(window.y1 // rows, -(-window.y2 // rows)):
            for column in range(window.x1 // columns, -(-window.x2 // columns)):
                part, top, left = self._decoded(row, column), row * rows, column * columns
                y1, y2 = max(window.y1, top), min(window.y2, top + rows)
                x1, x2 = max(window.x1, left), min(window.x2, left + columns)
                result[:, y1 - window.y1 : y2 - window.y1, x1 - window.x1 : x2 - window.x1] = part[
                    :, y1 - top : y2 - top, x1 - left : x2 - left
                ]
        return result

    def _decoded(self, row: int, column: int) -> Tensor:
        """Return a rectangle of the grid from the cache or the file: (C, height, width) as stored."""
        key = row, column
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        value_range = self._range
        with self._excerpt(row, column) as excerpt:
            pixels = excerpt.decode(value_range=value_range, bands=self._bands, channels=self._channels)
        self._cache[key] = pixels
        self._cached_bytes += pixels.untyped_storage().nbytes()
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.untyped_storage().nbytes()
        return pixels

    def _excerpt(self, row: int, column: int) -> AbstractContextManager[OpenedImage]:
        with self._opened.explaining_damage():
            content = self._excerpts.cut(row, column)
        return open_image(content, max_pixels=self._opened.max_pixels, name=self._opened.path)

    @cached_property
    def _range(self) -> ValueRange:
        """The values that become black and white; with "auto", they are chosen from all samples of an image."""
        if self._opened.header.dtype == "uint8" or self._value_range != "auto":
            return self._value_range
        log.info(
            "%s: reading the whole image once to find its range of values; data.value_range=[LOW, HIGH] avoids this",
            self._opened.path,
        )
        return tuple(automatic_ranges(self._samples()))

    def _samples(self) -> Iterator[Samples]:
        rows, columns = self._excerpts.size
        for row in range(-(-self._excerpts.height // rows)):
            for column in range(-(-self._excerpts.width // columns)):
                with self._excerpt(row, column) as excerpt:
                    samples = excerpt.samples(self._bands, self._channels)
                assert samples is not None
                yield samples


def _as_stored(window: Window, size: tuple[int, int], orientation: int) -> Window:
    """Convert a window of the displayed image, which has this height and width, to one of the stored image."""
    x1, y1, x2, y2 = window
    if 1 in FLIPS[orientation]:
        y1, y2 = size[0] - y2, size[0] - y1
    if 2 in FLIPS[orientation]:
        x1, x2 = size[1] - x2, size[1] - x1
    return Window(y1, x1, y2, x2) if swaps_sides(orientation) else Window(x1, y1, x2, y2)
