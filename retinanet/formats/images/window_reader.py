"""Open image files to read them in windows, so that an image may be larger than the memory."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike

from torch import Tensor

from retinanet.errors import InputError
from retinanet.formats.images.reader import Part, assembled, open_bands
from retinanet.formats.images.settings import ImageSettings
from retinanet.formats.images.tiff_windows import TiffWindows
from retinanet.formats.images.windows import DecodedImage, Window, WindowSource

log = logging.getLogger(__name__)

WHOLE_PIXELS = 1 << 24  # images up to 4096 x 4096 are decoded at once: they need little memory
NOTED_PIXELS = 1 << 26  # images with more than most cameras have are noted if they are decoded at once
MAX_PIXELS = 10**10  # of an image that is read in windows
CONVERT = (
    "convert it to a tiled TIFF, for example with `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE` or "
    "`vips tiffsave --tile --compression deflate`"
)


@contextmanager
def open_windows(
    path: str | PathLike[str] | bytes, settings: ImageSettings, *, whole_pixels: int = WHOLE_PIXELS
) -> Iterator[WindowSource]:
    """Open an image, given as a path or as the content of a file, to read windows of it.

    TIFFs are read strip by strip or tile by tile. Images in other formats, and those of at most `whole_pixels` pixels,
    are decoded at once. The pixels are those of `read_image` in either case.

    Args:
        settings: `max_pixels` limits what is decoded at once: the whole image, or a strip or tile.

    Raises:
        InputError: see `read_image`; or an image that is too large to be decoded at once cannot be read in windows.
    """
    with open_bands(path, settings, max_tiff_pixels=MAX_PIXELS) as opened:
        header = opened.header
        if header.height * header.width <= min(whole_pixels, settings.max_pixels):
            yield DecodedImage(opened.decode().contiguous())
            return
        parts = opened.parts()
        sources = [_source(part) for part in parts]
        yield sources[0] if len(opened.files) == 1 else _Assembled(parts, sources, settings.channels)


class _Assembled:
    """An image whose bands are in several files, as a `WindowSource`."""

    def __init__(self, parts: Sequence[Part], sources: Sequence[WindowSource], channels: int):
        self._parts = parts
        self._sources = sources
        self._channels = channels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as displayed."""
        return self._sources[0].size

    def read(self, window: Window) -> Tensor:
        """Return the pixels in a window inside the image: contiguous uint8 (C, height, width)."""
        pixels = (source.read(window) for source in self._sources)
        return assembled(self._parts, pixels, self._channels).contiguous()


def _source(part: Part) -> WindowSource:
    """Read the bands of one file in windows if its format allows this, otherwise decode them."""
    file, header = part.file, part.file.header
    try:
        return TiffWindows(file, value_range=part.value_range, bands=part.bands, channels=len(part.positions))
    except ValueError as error:
        reason = error
    found = f"{file.path}: has {header.height * header.width} pixels ({header.width} x {header.height})"
    if header.height * header.width > file.max_pixels:
        raise InputError(
            f"{found}, expected at most {file.max_pixels}, because it cannot be read in windows ({reason}); {CONVERT}, "
            "shrink it, or raise data.max_pixels"
        )
    if header.height * header.width > NOTED_PIXELS:
        log.info("note: %s and is decoded at once, because %s; to save memory, %s", found, reason, CONVERT)
    return DecodedImage(part.decode(apply_orientation=True).contiguous())
