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
