"""Forecast the duration of a run on a CPU before its first step, and find a bundled config that fits."""

import time
from collections import Counter
from typing import NamedTuple

import torch

from retinanet.config import Config
from retinanet.config.load import load_config
from retinanet.data.build import build_padded_shapes, images_per_epoch
from retinanet.engine.schedule import run_length
from retinanet.formats.dataset import Dataset
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.runtime.console import format_duration
from retinanet.runtime.device import autocast, memory_format_for
from retinanet.runtime.distributed import world_size

PASSES_PER_STEP = 3.0  # a step is a forward pass and, for the gradients of inputs and weights, about two more
LONG_RUN = 6 * 3600.0  # seconds; longer runs on a CPU are warned about
CPU_CONFIGS = ("own_cpu", "shapes_r18")  # bundled CPU configs, largest images first
ENOUGH_PIXELS = 500_000  # the forward pass to time has about this many pixels, or the whole batch if it has fewer

ShapeShares = dict[tuple[int, int], float]  # padded (height, width) -> share of the images


class Forecast(NamedTuple):
    """Duration of a run's steps, from one forward pass."""

    seconds: float
    shape: tuple[int, int]  # padded height and width of the images in that pass


def forecast(
    cfg: Config, model: RetinaNet, shares: ShapeShares, num_steps: int, device: torch.device, dtype: torch.dtype
) -> Forecast:
    """Forecast how long some steps take, by timing a forward pass on blank images. The model does not change.

    It is rough, because losses, optimizer and reading images are not part of it: about right for a ResNet-50 on images
    of 800 pixels, but about half of the real time for the quickstart, whose images are small.

    Args:
        shares: share of the training images in each padded shape, from `shape_shares`.
    """
    mean_pixels = sum(height * width * share for (height, width), share in shares.items())
    height, width = shape = min(shares, key=lambda shape: abs(shape[0] * shape[1] - mean_pixels))
    per_process = cfg.train.batch_size / world_size()
    count = max(1, min(round(ENOUGH_PIXELS / (height * width)), int(per_process / cfg.train.accumulate)))
    pixels = torch.zeros(count, 3, height, width, device=device).contiguous(memory_format=model.memory_format)
    was_training = model.training
    model.eval()  # so that batch norm keeps its statistics
    seconds: list[float] = []
    try:
        while len(seconds) < 3 and sum(seconds) < 2.0:  # the first pass is slower
            start = time.perf_counter()
            with torch.no_grad(), autocast(device, dtype):
                model.outputs(pixels)
            seconds.append(time.perf_counter() - start)
    finally:
        model.train(was_training)
    per_pixel = min(seconds) / pixels[:, 0].numel()
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
    """Name of the first bundled config for a CPU that trains on this data in less than `LONG_RUN`, with its forecast.

    The last one is named if none does.
    """
    for name in CPU_CONFIGS:
        cfg = load_config(name)
        with torch.random.fork_rng(devices=[]):  # the run's own random numbers must not depend on this
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
