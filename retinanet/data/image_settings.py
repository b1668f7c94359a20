"""Build the settings for the pixels of images: how files are read, and the value of blank areas."""

from collections.abc import Sequence

from retinanet.config import Config, ModelConfig
from retinanet.data.transforms.sample import FILL
from retinanet.formats.images.settings import ImageSettings


def build_image_settings(cfg: Config) -> ImageSettings:
    """Build the settings for reading image files."""
    return ImageSettings(
        max_pixels=cfg.data.max_pixels,
        value_range=cfg.data.value_range,
        bands=cfg.data.bands,
        band_files=cfg.data.band_files,
        channels=cfg.model.in_channels,
    )


def build_fill(cfg: ModelConfig) -> Sequence[int]:
    """Return the value of each channel outside any image: ImageNet's mean for RGB, `model.mean` for other images."""
    if cfg.in_channels == 3:
        return FILL
    if not cfg.has_statistics:  # in `retinanet check`, before they are computed
        return (0,) * cfg.in_channels
    return tuple(min(max(round(mean), 0), 255) for mean in cfg.mean)
