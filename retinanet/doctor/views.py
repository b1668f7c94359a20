"""Draw training images as the network sees them: augmented, with boxes and their positive anchors."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes

from retinanet.config import Config
from retinanet.config.transforms import ResizeTransform, ScaleJitterTransform, Transform
from retinanet.data.build import build_reader
from retinanet.data.collate import pad_targets
from retinanet.data.image_settings import build_fill
from retinanet.data.preview import augmented_samples, plan_images
from retinanet.data.transforms.build import build_transforms
from retinanet.data.transforms.sample import Sample
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.boxes import overlap
from retinanet.detection.build import build_assignment
from retinanet.doctor.anchors import AnchorReport
from retinanet.formats.dataset import Dataset
from retinanet.visualization.draw import as_rgb

LEARNT, UNMATCHED, CROWD, ANCHOR = "#19d84f", "#ff2b2b", "#b9b9b9", "#3aa0ff"  # colours of boxes
EPOCHS = 3  # of each image: enough to see what changes
MAX_TRIES = 30  # epochs to try until a transform has an effect; many transforms apply to some images only
MIN_SIDE, MAX_SIDE = 320, 800  # longer side of a drawn image, pixels: boxes are distinct, and the page is small


class View(NamedTuple):
    """One image as the network sees it, with boxes drawn on it."""

    image: Tensor  # (3, H, W) uint8; of more than three channels, the first three
    caption: str


class ImageViews(NamedTuple):
    """One training image in several epochs."""

    path: str
    views: list[View]


def training_views(cfg: Config, data: Dataset, indices: Sequence[int]) -> list[ImageViews]:
    """Augment images as in the first epochs, and draw the objects and their positive anchors.

    Raises:
        InputError: an image can be neither read nor replaced.
    """
    generator = AnchorGenerator(**cfg.model.anchors.model_dump())
    assign = build_assignment(cfg.assignment)
    rows = [ImageViews(data.paths[index], []) for index in indices]
    for epoch in range(EPOCHS):
        planned = plan_images(cfg, data, indices, epoch=epoch)
        samples = augmented_samples(cfg, data, planned)
        for row, image, sample in zip(rows, planned, samples, strict=True):
            anchors = generator(*image.padded_shape)
            assignment = assign(anchors, pad_targets([(sample.boxes, sample.labels, sample.is_crowd)]))
            positive = assignment.positive[0]
            flat = torch.cat([level.reshape(-1, 4) for level in anchors])[positive]
            drawn, text = _draw_sample(sample, flat, assignment.gt_index[0][positive])
            row.views.append(View(drawn, f"epoch {epoch + 1}: {text}"))
    return rows


def transform_views(cfg: Config, data: Dataset, indices: Sequence[int]) -> list[View]:
    """Show each transform of the config alone, on the first given image that it changes within `MAX_TRIES` epochs.

    Raises:
        InputError: an image cannot be read.
    """
    if not indices:
        return []
    alone = [entry for entry in cfg.data.transforms if not isinstance(entry, ResizeTransform)]
    return [_show_transform(cfg, data, indices, entry) for entry in alone]


def choose_images(report: AnchorReport, data: Dataset, count: int, *, unusable: Iterable[int] = ()) -> list[int]:
    """Choose images to show: half of them with objects that have no positive anchor, the others evenly spaced.

    Images with objects come before images without.
    """
    position = {path: index for index, path in enumerate(data.paths)}
    image = np.repeat(np.arange(len(report.dataset)), np.diff(report.dataset.box_start))
    lost = (report.num_positive == 0) & ~report.dataset.is_crowd
    with_lost = [position[report.dataset.paths[index]] for index in np.unique(image[lost]).tolist()]
    excluded = set(unusable)
    with_lost = [index for index in with_lost if index not in excluded]
    usable = [index for index in range(len(data)) if index not in excluded]
    with_boxes = [index for index in usable if data.box_start[index] < data.box_start[index + 1]] or usable
    places = np.linspace(0, len(with_boxes) - 1, min(count, len(with_boxes))).astype(int)
    spread = [with_boxes[place] for place in np.unique(places).tolist()]
    chosen = dict.fromkeys([*with_lost[: count // 2], *spread])
    return sorted(list(chosen)[:count])


def _show_transform(cfg: Config, data: Dataset, indices: Sequence[int], entry: Transform) -> View:
    # The sizing step keeps its place, because a transform may need the image before or after it.
    is_sizing = isinstance(entry, ScaleJitterTransform)
    kept = [
        ResizeTransform() if isinstance(other, ScaleJitterTransform) and other is not entry else other
        for other in cfg.data.transforms
        if other is entry or (not is_sizing and isinstance(other, ResizeTransform | ScaleJitterTransform))
    ]
    alone = build_reader(cfg, data, build_transforms(kept, fill=build_fill(cfg.model)), seed=cfg.train.seed)
    plain = build_reader(cfg, data, build_transforms([ResizeTransform()]), seed=cfg.train.seed)
    for index in indices:
        original = plain.read(index)
        before = plain.transform(original, *plan_images(cfg, data, [index])).sample
        for epoch in range(MAX_TRIES):
            after = alone.transform(original, *plan_images(cfg, data, [index], epoch=epoch)).sample
            if not _is_same(before, after):
                return View(_draw_sample(after)[0], describe_transform(entry))
    return View(_draw_sample(before)[0], f"{describe_transform(entry)}: no effect in {MAX_TRIES} epochs")


def describe_transform(entry: Transform) -> str:
    """Describe a transform with its settings, such as `flip (p: 0.5)`."""
    values = ", ".join(f"{key}: {value}" for key, value in entry.model_dump(exclude={"type"}).items())
    return f"{entry.type} ({values})" if values else entry.type


def _is_same(one: Sample, other: Sample) -> bool:
    return torch.equal(one.image, other.image) and torch.equal(one.boxes, other.boxes)


def _draw_sample(sample: Sample, anchors: Tensor | None = None, matched: Tensor | None = None) -> tuple[Tensor, str]:
    """Draw a sample's boxes, each with its best anchor, and return a description.

    Args:
        anchors: (P, 4), the positive anchors; None: draw boxes only.
        matched: (P,), the row of `sample.boxes` assigned to each anchor.
    """
    pixels, factor = _resized(as_rgb(sample.image))
    num_boxes = len(sample.boxes)
    if anchors is None or matched is None:
        colors = [CROWD if crowd else LEARNT for crowd in sample.is_crowd.tolist()]
        return _draw(pixels, factor * sample.boxes, colors, 2), f"{num_boxes} boxes"
    num_anchors = torch.bincount(matched, minlength=num_boxes)
    intersection, union = overlap(anchors, sample.boxes[matched])
    fit = intersection / union
    rows_of = [torch.where(matched == box)[0] for box in range(num_boxes)]
    best = torch.tensor([rows[fit[rows].argmax()] for rows in rows_of if len(rows)], dtype=torch.int64)
    colors = [
        CROWD if crowd else LEARNT if count else UNMATCHED
        for crowd, count in zip(sample.is_crowd.tolist(), num_anchors.tolist(), strict=True)
    ]
    pixels = _draw(pixels, factor * anchors[best], [ANCHOR] * len(best), 1)
    pixels = _draw(pixels, factor * sample.boxes, colors, 2)
    unmatched = colors.count(UNMATCHED)
    text = f"{num_boxes - colors.count(CROWD)} object(s), {len(anchors)} anchor(s)"
    return pixels, text + (f", {unmatched} without an anchor" if unmatched else "")


def _resized(image: Tensor) -> tuple[Tensor, float]:
    """Enlarge small images and shrink large ones for the page; also return the factor."""
    longer = max(image.shape[-2:])
    factor = max(1, math.ceil(MIN_SIDE / longer)) if longer < MIN_SIDE else min(1.0, MAX_SIDE / longer)
    if factor == 1:
        return image, 1.0
    size = [max(1, round(factor * side)) for side in image.shape[-2:]]
    return F.resize(image, size, antialias=True), factor


def _draw(image: Tensor, boxes: Tensor, colors: list[str], width: int) -> Tensor:
    """Draw boxes, clipped to the image."""
    height, width_of_image = image.shape[-2:]
    limits = torch.tensor([width_of_image - 1, height - 1, width_of_image - 1, height - 1])
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    seen = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if not seen.any():
        return image
    shown = [color for color, is_seen in zip(colors, seen.tolist(), strict=True) if is_seen]
    return draw_bounding_boxes(image, boxes[seen], colors=shown, width=width)
