"""Settings for decoding image files to the pixels that the network sees."""

from typing import NamedTuple

from retinanet.config.data import ValueRange


class ImageSettings(NamedTuple):
    """Settings for reading images: `model.in_channels`, and keys of `data` with the same names."""

    max_pixels: int
    value_range: ValueRange = "auto"
    bands: tuple[int, ...] | None = None
    band_files: tuple[str, ...] | None = None
    channels: int = 3


def pixel_limit(max_pixels: int, max_tiff_pixels: int | None, *, is_tiff: bool) -> tuple[int, str]:
    """Return how many pixels an image may have, and what to do if it has more.

    Args:
        max_pixels: of an image that is decoded at once.
        max_tiff_pixels: of a TIFF that is read in parts; None: TIFFs are decoded at once, too.
    """
    if is_tiff and max_tiff_pixels:
        return max_tiff_pixels, "divide the image into several files, or shrink it"
    advice = "shrink the image or raise data.max_pixels"
    return max_pixels, f"{advice}; to predict on it as it is, set inference.tile.size" if is_tiff else advice
