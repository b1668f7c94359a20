"""Recommend image size, levels, anchors, batch, sampling and schedule for a dataset and a machine, as overrides."""

import math
import os
from typing import NamedTuple

import numpy as np
import torch

from retinanet.config import Config
from retinanet.config.load import with_overrides
from retinanet.data.build import build_padded_shapes, eval_shorter, images_per_epoch
from retinanet.doctor.anchor_proposal import AnchorProposal, fit_anchors
from retinanet.doctor.anchors import MAX_OBJECTS
from retinanet.doctor.recommend_levels import P2_MEMORY, recommend_levels
from retinanet.doctor.recommendation import Recommendation
from retinanet.formats.dataset import Dataset
from retinanet.runtime.console import format_bytes

# Image size. The smallest anchor that `fit_anchors` proposes has 2 strides of the finest level: 16 pixels on P3. An
# object of this size covers 2 x 2 cells of that level.
MIN_OBJECT = 2.0  # strides of the finest level, compared with the square root of the area after the resize
REQUIRED_SHARE = 0.95  # of the objects; the smallest, often annotation errors, should not determine the cost of a run
WORTHWHILE_GAIN = 0.01  # in a fraction of objects; smaller gains are not worth a change

# Anchors. Where most objects reach the foreground IoU, as with the default anchors on COCO (0.85 to 0.89) and BCCD
# (0.986), other anchors have not raised AP (benchmarks/results/2026-11-30-anchor-fit.md).
COVERED_WELL = 0.8

# Memory of a training step in float32, in bytes per pixel of padded input, with every stage and norm trainable: the
# slope of peak memory over the batch size at 256 x 320 on a CPU (benchmarks/results/2026-11-30-anchor-fit.md). Other
# backbones are assumed to need the largest measured amount.
MEMORY_PER_PIXEL = {"resnet10_half": 770, "resnet18": 770, "resnet50": 2220}
LARGEST_MEMORY_PER_PIXEL = 5970  # ResNeXt-101 32x8d
MEMORY_WITHOUT_IMAGES = 1.5 * 2**30  # bytes: weights, their gradients and optimizer state, libraries
USABLE_MEMORY = 0.8  # fraction; the rest is left for the system, other processes and fragmentation

# Sampling. Classes differ in frequency on every real dataset; repetition matters from a factor of about 100.
MIN_IMBALANCE = 100  # most common class / rarest class, in images

# Schedule. The bundled recipes that train from random weights on small sets take 500 (quickstart) and 615 (bccd_r18)
# steps to reach a useful AP.
MIN_STEPS = 600
MAX_EPOCHS = 100  # the longest schedule in common use for detectors without strong augmentation
MAX_WARMUP_SHARE = 0.2  # of the run; a short run would end before the default warm-up of 1000 steps


NO_OBJECTS = "no objects, nothing to recommend"


class Machine(NamedTuple):
    """The properties of a machine that recommendations depend on."""

    device: torch.device
    memory: int | None  # bytes of the accelerator, or of the host if the device is a CPU; None if unknown


class Advice(NamedTuple):
    """Recommendations for a dataset, and the anchors that they are based on."""

    recommendations: list[Recommendation]  # one per topic, in the order of the rules
    proposal: AnchorProposal  # anchors fitted at the recommended image size to the recommended levels

    @property
    def changes_objects_or_levels(self) -> bool:
        """Whether the proposal is for another image size or other levels than those of the config."""
        return any(item.lines for item in self.recommendations if item.topic in ("image size", "levels"))


def describe_machine(device: torch.device) -> Machine:
    """Find the memory of a device."""
    if device.type == "cuda":
        return Machine(device, torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return Machine(device, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return Machine(device, None)


def recommend(dataset: Dataset, cfg: Config, machine: Machine, *, max_objects: int | None = MAX_OBJECTS) -> Advice:
    """Recommend settings for training on a dataset, one entry per topic.

    Each rule sees the config with the lines of the previous ones applied.

    Args:
        dataset: the training set; no image is read.
        max_objects: see `fit_anchors`.
    """
    size = recommend_image_size(dataset, cfg)
    cfg = with_overrides(cfg, size.lines, source="recommended image size")
    proposal = fit_anchors(dataset, cfg, max_objects=max_objects)
    levels, proposal = recommend_levels(dataset, cfg, proposal, max_objects=max_objects)
    cfg = with_overrides(cfg, levels.lines, source="recommended levels")
    batch = recommend_batch(dataset, cfg, machine)
    cfg = with_overrides(cfg, batch.lines, source="recommended batch")
    sampling = recommend_sampling(dataset, cfg)
    cfg = with_overrides(cfg, sampling.lines, source="recommended sampling")
    items = [size, levels, recommend_anchors(proposal), batch, sampling, recommend_schedule(dataset, cfg)]
    return Advice(items, proposal)


def recommend_image_size(dataset: Dataset, cfg: Config) -> Recommendation:
    """Recommend the smallest image size at which REQUIRED_SHARE of the objects have at least MIN_OBJECT strides.

    Sizes above the median of the original images are not considered, because they add no detail. Sizes below the
    current one are not considered either: smaller images save time, but may cost AP even if all objects are large
    enough.
    """
    resize, current = cfg.data.resize, eval_shorter(cfg.data)
    topic, is_object = "image size", ~dataset.is_crowd
    if not is_object.any():
        return Recommendation(topic, NO_OBJECTS)
    sides = np.sqrt(dataset.boxes_xywh[:, 2] * dataset.boxes_xywh[:, 3])[is_object]
    image = np.repeat(np.arange(len(dataset)), np.diff(dataset.box_start))[is_object]
    per_longer = resize.longer / current
    min_object = MIN_OBJECT * cfg.model.anchors.strides[0]

    def share(shorter: int) -> float:
        scale = np.minimum(shorter / dataset.sizes.min(axis=1), shorter * per_longer / dataset.sizes.max(axis=1))
        return float((sides * scale[image] >= min_object).mean())

    original = int(np.median(dataset.sizes.min(axis=1)))
    before = f"{100 * share(current):.0f} % of the objects have at least {min_object:.0f} pixels"
    if share(current) >= REQUIRED_SHARE:
        return Recommendation(topic, f"{before} at a shorter side of {current}: they are large enough")
    candidates = [*range(resize.divisor * (current // resize.divisor + 1), original, resize.divisor), original]
    candidates = [side for side in candidates if side > current]
    chosen = next((side for side in candidates if share(side) >= REQUIRED_SHARE), candidates[-1] if candidates else 0)
    after = share(chosen) if chosen else 0.0
    if after < REQUIRED_SHARE and after < share(current) + WORTHWHILE_GAIN:
        reason = (
            "the original images hardly have more detail; annotate at a higher resolution, or cut images into tiles"
        )
        return Recommendation(topic, f"only {before} at a shorter side of {current}, and {reason}")
    factor = chosen / current
    longer = resize.divisor * math.ceil(chosen * per_longer / resize.divisor)
    shorter = [chosen if side == current else round(side * factor) for side in resize.shorter]
    lines = [f"data.resize.shorter={shorter if len(shorter) > 1 else shorter[0]}", f"data.resize.longer={longer}"]
    if resize.val_shorter is not None:
        lines.append(f"data.resize.val_shorter={chosen}")
    sentence = (
        f"only {before} at a shorter side of {current}; with {chosen}, {100 * after:.0f} % do. Images then have "
        f"{factor**2:.1f} times as many pixels, so a step takes about {factor**2:.1f} times as much time and memory"
    )
    return Recommendation(topic, sentence, tuple(lines))


def recommend_anchors(proposal: AnchorProposal) -> Recommendation:
    """Recommend the proposed anchors if the current ones cover fewer than `COVERED_WELL` of the objects.

    An object is covered if it reaches the foreground IoU with an anchor. The proposal must cover more objects, or leave
    fewer without a positive anchor.
    """
    before, after = proposal.before.total, proposal.after.total
    if not before.objects:
        return Recommendation("anchors", NO_OBJECTS)
    (share_before, share_after), fg_iou = proposal.shares, proposal.fg_iou
    sentence = (
        f"{100 * share_before:.1f} % of the objects reach an IoU of {fg_iou:g} with an anchor, and {before.unmatched} "
        "have no positive anchor"
    )
    if share_after < share_before + WORTHWHILE_GAIN and after.unmatched == before.unmatched:
        return Recommendation("anchors", f"{sentence}; no anchors were found that improve this by a percentage point")
    if share_before >= COVERED_WELL:
        return Recommendation("anchors", f"{sentence}: enough, since other anchors would hardly raise AP")
    sentence += f"; with the proposed anchors, these are {100 * share_after:.1f} % and {after.unmatched}"
    return Recommendation("anchors", sentence, tuple(proposal.config_lines()))


def recommend_batch(dataset: Dataset, cfg: Config, machine: Machine) -> Recommendation:
    """Recommend a batch that is not larger than the dataset and fits in memory, by a rough estimate.

    If memory is short, the batch is split by `train.accumulate`, which keeps the gradient (except with batch norm). The
    batch size itself affects results, and on a CPU it hardly affects the time per image. The estimate is for one
    process; several processes on a machine share its memory.
    """
    batch_size = min(cfg.train.batch_size, len(dataset))
    accumulate = min(cfg.train.accumulate, batch_size)
    sentence = f"{batch_size} image(s) per step"
    if batch_size < cfg.train.batch_size:  # a larger batch repeats images, and adds time but no information to a step
        sentence += f" instead of {cfg.train.batch_size}, because the dataset has no more"
    if machine.memory is None:
        sentence += f"; the memory of {machine.device} is unknown"
    else:
        pixels = _largest_padded_image(dataset, cfg)
        image_bytes = pixels * MEMORY_PER_PIXEL.get(cfg.model.backbone.name, LARGEST_MEMORY_PER_PIXEL)
        image_bytes *= P2_MEMORY if cfg.model.levels.startswith("p2") else 1
        fitting = int((USABLE_MEMORY * machine.memory - MEMORY_WITHOUT_IMAGES) / image_bytes)
        accumulate = max(accumulate, math.ceil(batch_size / max(fitting, 1)))
        sentence += (
            f"; in float32, each takes up to {format_bytes(image_bytes)} of the {format_bytes(machine.memory)} of "
            f"{machine.device}, so {max(fitting, 0)} fit at once (estimated; retinanet train --dry-run measures)"
        )
        if fitting < 1:
            sentence += "; lower data.resize.shorter and longer"
    norms = (cfg.model.backbone.norm, cfg.model.head_norm.removesuffix("_per_level"))
    if accumulate > cfg.train.accumulate and {"batch", "sync"}.intersection(norms):
        sentence += "; batch norm then normalises over fewer images"
    lines = []
    if batch_size != cfg.train.batch_size:
        lines.append(f"train.batch_size={batch_size}")
    if accumulate != cfg.train.accumulate:
        lines.append(f"train.accumulate={accumulate}")
    return Recommendation("batch", sentence, tuple(lines))


def _largest_padded_image(dataset: Dataset, cfg: Config) -> int:
    """Return the number of pixels in the largest padded shape of the dataset's images in training."""
    padded_shapes = build_padded_shapes(cfg.data)
    buckets = {padded_shapes.bucket(height, width) for height, width in dataset.sizes.tolist()}
    shapes = (padded_shapes.padded_shape(bucket, max(cfg.data.resize.shorter)) for bucket in buckets)
    return max(height * width for height, width in shapes)


def recommend_sampling(dataset: Dataset, cfg: Config) -> Recommendation:
    """Recommend repeat-factor sampling if the classes are highly imbalanced and each image is used once per epoch.

    An image is repeated sqrt(threshold / frequency) times, with the frequency of its rarest class (Gupta et al. 2019).
    The threshold is the frequency of the most common class / MIN_IMBALANCE, so only rarer classes are repeated.
    """
    if cfg.data.sampling.type != "all":
        return Recommendation("sampling", f"data.sampling is already {cfg.data.sampling.type}")
    image = np.repeat(np.arange(len(dataset)), np.diff(dataset.box_start))[~dataset.is_crowd]
    pairs = np.unique(np.stack([image, dataset.labels[~dataset.is_crowd]], axis=1), axis=0)
    counts = np.bincount(pairs[:, 1], minlength=len(dataset.class_names))  # images with each class
    present = np.flatnonzero(counts)
    if len(present) < 2:
        return Recommendation("sampling", "fewer than two classes have objects: use every image once per epoch")
    rarest, commonest = present[counts[present].argmin()], counts.argmax()
    described = (
        f"{dataset.class_names[commonest]} occurs in {counts[commonest]} image(s), {dataset.class_names[rarest]} in "
        f"{counts[rarest]}"
    )
    if counts[commonest] < MIN_IMBALANCE * counts[rarest]:
        return Recommendation("sampling", f"{described}: use every image once per epoch")
    threshold = float(f"{counts[commonest] / MIN_IMBALANCE / len(dataset):.2g}")
    return Recommendation(
        "sampling",
        f"{described}: repeat images with rare classes",
        (f"data.sampling={{type: repeat_factor, threshold: {threshold:g}}}",),
    )


def recommend_schedule(dataset: Dataset, cfg: Config) -> Recommendation:
    """Recommend a run of at least MIN_STEPS steps but otherwise at most MAX_EPOCHS epochs, with a warm-up that fits.

    A run set in epochs may take too few steps on a small dataset. A run set in steps, for example for COCO, may repeat
    a small dataset thousands of times.
    """
    train, num_images = cfg.train, images_per_epoch(cfg, dataset)
    epoch = num_images / train.batch_size  # steps
    steps = train.steps if train.steps is not None else math.ceil((train.epochs or 0) * epoch)
    sentence, lines = f"{steps} steps, {steps / epoch:.1f} epochs of {num_images} image(s)", []
    fewest_epochs = math.ceil(MIN_STEPS / epoch)
    most_epochs = max(MAX_EPOCHS, fewest_epochs)
    if steps < MIN_STEPS or steps / epoch > most_epochs:
        problem, epochs = ("few", fewest_epochs) if steps < MIN_STEPS else ("many", most_epochs)
        steps = math.ceil(epochs * epoch)
        lines.append(f"train.epochs={epochs}")
        sentence += f", are too {problem}; {epochs} epochs are {steps} steps"
    if train.warmup_steps > MAX_WARMUP_SHARE * steps:
        lines.append(f"train.warmup_steps={int(MAX_WARMUP_SHARE * steps)}")
        sentence += f"; a warm-up of {train.warmup_steps} steps is too long for this"
    return Recommendation("schedule", sentence, tuple(lines))
