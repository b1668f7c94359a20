"""Settings and results of a benchmark suite."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from retinanet.errors import InputError


class Settings(NamedTuple):
    """Settings of `retinanet benchmark`. None selects the suite's default."""

    rounds: int
    device: torch.device
    dtype: torch.dtype
    size: tuple[int, int] | None = None  # height and width of the padded images
    batch: int | None = None
    classes: int | None = None
    backbone: str = "resnet50"
    compiled: bool = False  # also measure with torch.compile
    growth: bool = False  # also measure how time and memory grow with the workload
    workers: int = 2  # for the data suite
    images: Path | None = None  # for the data suite; None generates synthetic images
    annotations: Path | None = None


class SuiteResult(NamedTuple):
    """Results of one suite."""

    ratios: dict[str, float]  # above 1, ours is better
    tables: list[str]
    details: dict[str, Any]  # plain values for JSON


def network_size(settings: Settings, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the input in suites that run a whole network.

    Raises:
        InputError: torchvision would pad the images to a different size.
    """
    size = settings.size or default
    if any(side % 32 for side in size):
        raise InputError(
            f"--size is {size[0]}x{size[1]}, expected multiples of 32: torchvision pads to multiples of 32, so "
            "the two networks would run at different input sizes"
        )
    return size
