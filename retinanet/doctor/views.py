"""Draw what the network sees in training: augmented images, their boxes, and the anchors that learn them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes

from retinanet.config import Config
from retinanet.data.collate import pad_targets
from retinanet.data.preview import augmented_samples, plan_images
from retinanet.data.transforms.sample import Sample
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.build import build_assignment
from retinanet.doctor.anchors import AnchorReport
from retinanet.formats.dataset import Dataset

LEARNT, UNMATCHED, CROWD, ANCHOR = "#19d84f", "#ff2b2b", "#9a9a9a", "#3aa0ff"  # colours of boxes
MAX_ANCHORS = 3  # anchors to draw for each object, spread over all that learn it; a large object has dozens
MIN_SIDE = 320  # pixels; smaller images are enlarged, so that boxes can be told apart


class View(NamedTuple):
    """One image as the network sees it, with boxes drawn on it."""

    image: Tensor  # (3, H, W) uint8
    caption: str


def training_views(cfg: Config, data: Dataset, indices: Sequence[int]) -> list[View]:
    """Augment images as in the first epoch, and draw objects, anchors, and objects without an anchor.

    Raises:
        InputError: an image can be neither read nor replaced.
    """
    planned = plan_images(cfg, data, indices)
    generator = AnchorGenerator(**cfg.model.anchors.model_dump())
    assign = build_assignment(cfg.assignment)
    views = []
    for image, sample in zip(planned, augmented_samples(cfg, data, planned), strict=True):
        anchors = generator(*image.padded_shape)
        assignment = assign(anchors, pad_targets([(sample.boxes, sample.labels, sample.is_crowd)]))
        positive = assignment.positive[0]
        flat = torch.cat([level.reshape(-1, 4) for level in anchors])[positive]
        views.append(_view(data, image.index, sample, flat, assignment.gt_index[0][positive]))
    return views


def choose_images(report: AnchorReport, data: Dataset, count: int) -> list[int]:
    """Choose images of a dataset to look at: half of them with objects that no anchor learns, the others spread out."""
    position = {path: index for index, path in enumerate(data.paths)}
    image = np.repeat(np.arange(len(report.dataset)), np.diff(report.dataset.box_start))
    lost = (report.num_positive == 0) & ~report.dataset.is_crowd
    with_lost = [position[report.dataset.paths[index]] for index in np.unique(image[lost]).tolist()]
    spread = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).astype(int)).tolist()
    chosen = dict.fromkeys([*with_lost[: count // 2], *spread])
    return sorted(list(chosen)[:count])


def _view(data: Dataset, index: int, sample: Sample, anchors: Tensor, matched: Tensor) -> View:
    num_anchors = torch.bincount(matched, minlength=len(sample.boxes))
    drawn = torch.cat([torch.empty(0, dtype=torch.int64), *(
        rows[:: math.ceil(len(rows) / MAX_ANCHORS)] for box in range(len(sample.boxes)) if len(rows := torch.where(matched == box)[0])
    )])  # fmt: skip
    colors = [
        CROWD if crowd else LEARNT if count else UNMATCHED
        for crowd, count in zip(sample.is_crowd.tolist(), num_anchors.tolist(), strict=True)
    ]
    factor = max(1, math.ceil(MIN_SIDE / max(sample.image.shape[-2:])))
    pixels = F.resize(sample.image, [factor * side for side in sample.image.shape[-2:]], antialias=True)
    pixels = _draw(pixels, factor * anchors[drawn], [ANCHOR] * len(drawn), 1)
    pixels = _draw(pixels, factor * sample.boxes, colors, max(2, min(pixels.shape[-2:]) // 200))
    objects, unmatched = int((~sample.is_crowd).sum()), colors.count(UNMATCHED)
    caption = f"{data.paths[index]}: {objects} objects, {len(anchors)} anchors learn them"
    return View(pixels, caption + (f", {unmatched} without an anchor" if unmatched else ""))


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
