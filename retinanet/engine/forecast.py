"""Forecast the duration of a run on a CPU before its first step, and find a bundled config that fits."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from retinanet.config import Config
from retinanet.config.load import load_config
from retinanet.data.build import build_padded_shapes, images_per_epoch
from retinanet.engine.schedule import run_length
from retinanet.formats.dataset import Dataset
from retinanet.model.detector import Detector
from retinanet.model.retinanet import build_model, is_retinanet
from retinanet.runtime.console import format_duration
from retinanet.runtime.device import autocast, memory_format_for
from retinanet.runtime.distributed import world_size

PASSES_PER_STEP = 3.0  # one forward pass, and a backward pass that costs about two (for inputs and weights)
LONG_RUN = 6 * 3600.0  # seconds; on a CPU, longer runs cause a warning
CPU_CONFIGS = ("own_cpu", "own_light", "shapes_r18")  # bundled CPU configs, slowest per epoch first
ENOUGH_PIXELS = 500_000  # approximate number of pixels in the timed forward pass; a smaller batch is used as a whole

ShapeShares = dict[tuple[int, int], float]  # padded (height, width) -> share of the images


class Forecast(NamedTuple):
    """Forecast duration of a run's steps, based on one forward pass."""

    seconds: float
    shape: tuple[int, int]  # padded height and width of the images in that pass


def forecast(
    cfg: Config, model: Detector, shares: ShapeShares, num_steps: int, device: torch.device, dtype: torch.dtype
) -> Forecast:
    """Forecast the duration of training steps by timing a forward pass on blank images. The model does not change.

    The forecast is rough, because it omits losses, optimizer and data loading. It is about right for a ResNet-50 on
    800-pixel images, but only about half the actual time for the quickstart, whose images are small.

    Args:
        shares: share of the training images in each padded shape, from `shape_shares`.
    """
    mean_pixels = sum(height * width * share for (height, width), share in shares.items())
    height, width = shape = min(shares, key=lambda shape: abs(shape[0] * shape[1] - mean_pixels))
    per_process = cfg.train.batch_size / world_size()
    count = max(1, min(round(ENOUGH_PIXELS / (height * width)), int(per_process / cfg.train.accumulate)))
    images = torch.zeros(count, cfg.model.in_channels, height, width, dtype=torch.uint8, device=device)
    image_sizes = torch.tensor([shape] * count, device=device)
    network: Callable[[], object] = partial(model, images, image_sizes)
    if is_retinanet(model):
        pixels = images.float().contiguous(memory_format=model.memory_format)
        network = partial(model.outputs, pixels)
    was_training = model.training
    model.eval()  # preserves the batch norm statistics
    seconds: list[float] = []
    try:
        while len(seconds) < 3 and sum(seconds) < 2.0:  # the first pass is slower
            start = time.perf_counter()
            with torch.no_grad(), autocast(device, dtype):
                network()
            seconds.append(time.perf_counter() - start)
    finally:
        model.train(was_training)
    per_pixel = min(seconds) / images[:, 0].numel()
    return Forecast(PASSES_PER_STEP * per_pixel * mean_pixels * per_process * num_steps, shape)


def shape_shares(cfg: Config, data: Dataset) -> ShapeShares:
    """Share of the training images in each padded shape."""
    padded_shapes, sides = build_padded_shapes(cfg.data), cfg.data.resize.shorter
    buckets = Counter(padded_shapes.bucket(height, width) for height, width in data.sizes.tolist())
    shares: ShapeShares = {}
    for bucket, count in buckets.items():
        for side in sides:
            shape = padded_shapes.padded_shape(bucket, side)
            shares[shape] = shares.get(shape, 0.0) + count / len(data) / len(sides)
    return shares


def fitting_config(data: Dataset, device: torch.device, dtype: torch.dtype) -> str:
    """Name and forecast of the first bundled CPU config that can train on this data in less than `LONG_RUN`.

    If there is none, the last config is returned.
    """
    for name in CPU_CONFIGS:
        cfg = load_config(name)
        with torch.random.fork_rng(devices=[]):  # the forecast must not affect the random numbers of the run
            model = build_model(cfg.model, len(data.class_names))
        model.to(memory_format=memory_format_for(device, dtype))
        steps = run_length(cfg.train, images_per_epoch(cfg, data))
        seconds = forecast(cfg, model, shape_shares(cfg, data), steps, device, dtype).seconds
        if seconds < LONG_RUN:
            break
    return (
        f"{name} ({cfg.model.backbone.name}, shorter side {max(cfg.data.resize.shorter)} pixels, {steps} steps of "
        f"{cfg.train.batch_size} images: about {format_duration(seconds)})"
    )
