"""Mean and standard deviation of each channel over the training images, and advice on `model.mean` and `model.std`."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.config import ModelConfig
from retinanet.doctor.recommend import Recommendation

MAX_IMAGES = 1000  # training images whose pixels are counted, evenly spaced
FAR_MEAN = 1.0  # in standard deviations
FAR_STD = 2.0  # as a factor
LEVELS = 256  # values of a pixel
TOPIC = "channels"


class ChannelSums(NamedTuple):
    """Exact sums over the pixels of one image."""

    pixels: int
    values: tuple[int, ...]  # C sums of the values
    squares: tuple[int, ...]  # C sums of the squared values


class ChannelStatistics(NamedTuple):
    """Statistics of the pixels of the training images, as decoded and before resizing."""

    images: int  # whose pixels were counted
    pixels: int
    mean: tuple[float, ...]  # C, 0..255
    std: tuple[float, ...]  # C


def channel_sums(image: Tensor) -> ChannelSums:
    """Sum the values and squared values of each channel of an image, uint8 (C, H, W)."""
    level = torch.arange(LEVELS)
    counts = [torch.bincount(channel.flatten(), minlength=LEVELS) for channel in image]
    return ChannelSums(
        pixels=image[0].numel(),
        values=tuple(int((count * level).sum()) for count in counts),
        squares=tuple(int((count * level.square()).sum()) for count in counts),
    )


def channel_statistics(images: Iterable[ChannelSums]) -> ChannelStatistics | None:
    """Compute mean and standard deviation over all pixels of all images; None if there are no images.

    With n pixels and the sums S1 of the values and S2 of their squares, the mean is S1 / n and the standard deviation
    sqrt(n S2 - S1^2) / n. All sums are whole numbers, so the result does not depend on the order of the images.
    """
    sums = list(images)
    if not sums:
        return None
    pixels = sum(image.pixels for image in sums)
    values = [sum(column) for column in zip(*(image.values for image in sums), strict=True)]
    squares = [sum(column) for column in zip(*(image.squares for image in sums), strict=True)]
    return ChannelStatistics(
        images=len(sums),
        pixels=pixels,
        mean=tuple(value / pixels for value in values),
        std=tuple(
            math.sqrt(pixels * square - value**2) / pixels for value, square in zip(values, squares, strict=True)
        ),
    )


def recommend_statistics(found: ChannelStatistics, cfg: ModelConfig) -> Recommendation:
    """Recommend values for `model.mean` and `model.std` if they are not set, or far from those of the training images.

    They are far if a mean differs by more than `FAR_MEAN` standard deviations, or a standard deviation by more than a
    factor of `FAR_STD`. Smaller differences hardly matter, and pretrained weights expect the values they were trained
    with.
    """
    measured = (
        f"mean {_listed(found.mean)} and standard deviation {_listed(found.std)} over the pixels of {found.images} "
        "training image(s)"
    )
    lines = (f"model.mean={_listed(found.mean)}", f"model.std={_listed(_positive(found.std))}")
    if 0 in found.std:
        measured += "; a channel is constant, so its standard deviation is set to 1"
    if not cfg.has_statistics:
        return Recommendation(TOPIC, measured, lines)
    configured = f"model.mean {_listed(cfg.mean)} and model.std {_listed(cfg.std)}"
    channels = zip(found.mean, _positive(found.std), cfg.mean, cfg.std, strict=True)
    if any(abs(mean - m) > FAR_MEAN * s or max(std / s, s / std) > FAR_STD for mean, std, m, s in channels):
        return Recommendation(TOPIC, f"{measured}, far from {configured}", lines)
    return Recommendation(TOPIC, f"{measured}: close enough to {configured}")


def _positive(std: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value or 1.0 for value in std)


def _listed(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:.2f}' for value in values)}]"
