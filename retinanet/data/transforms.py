"""Transforms of an image and its boxes: resizing, scale jitter with cropping, flipping, colour.

Random transforms draw from torch's global generator, which the caller seeds.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from retinanet.config import ColorTransform, FlipTransform, ResizeTransform, ScaleJitterTransform, Transform
from retinanet.data.padded_shapes import resized
from retinanet.data.sampler import PlannedImage

MIN_SIDE = 1.0  # pixels; cropping removes boxes with a shorter side


class Sample(NamedTuple):
    """An image with its ground truth in pixel coordinates."""

    image: Tensor  # (3, H, W) uint8
    boxes: Tensor  # (N, 4) float32
    labels: Tensor  # (N,) int64
    is_crowd: Tensor  # (N,) bool


SampleTransform = Callable[[Sample, PlannedImage], Sample]


def build_transforms(cfg: Sequence[Transform]) -> list[SampleTransform]:
    """Build the training transforms, in order."""
    transforms: list[SampleTransform] = []
    for entry in cfg:
        match entry:
            case ResizeTransform():
                transforms.append(Resize())
            case ScaleJitterTransform():
                transforms.append(ScaleJitter(entry.min, entry.max))
            case FlipTransform():
                transforms.append(TorchvisionTransform(v2.RandomHorizontalFlip(entry.p)))
            case ColorTransform():
                jitter = v2.ColorJitter(entry.brightness, entry.contrast, entry.saturation, entry.hue)
                transforms.append(TorchvisionTransform(jitter))
    return transforms


class Resize:
    """Resize to the planned size, keeping the aspect ratio. Evaluation uses no other transform."""

    def __call__(self, sample: Sample, planned: PlannedImage) -> Sample:
        return resize(sample, *resized(*sample.image.shape[-2:], planned.shorter, planned.longer))


class ScaleJitter:
    """Scale the planned size by a random factor in `low`..`high`, and crop the result to `max_shape`.

    The batch may have a larger padded shape, but augmentation must not depend on the other images in the batch.
    """

    def __init__(self, low: float, high: float):
        self.low = low
        self.high = high

    def __call__(self, sample: Sample, planned: PlannedImage) -> Sample:
        factor = torch.empty(()).uniform_(self.low, self.high).item()
        height, width = resized(*sample.image.shape[-2:], planned.shorter, planned.longer)
        sample = resize(sample, max(1, round(height * factor)), max(1, round(width * factor)))
        return random_crop(sample, *planned.max_shape)


class TorchvisionTransform:
    """Adapter for any torchvision.transforms.v2 transform that keeps the number of boxes."""

    def __init__(self, transform: v2.Transform):
        self.transform = transform

    def __call__(self, sample: Sample, planned: PlannedImage) -> Sample:
        size = tuple(sample.image.shape[-2:])
        boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=size)
        image, boxes = self.transform(tv_tensors.Image(sample.image), boxes)
        return sample._replace(image=image.as_subclass(Tensor), boxes=boxes.as_subclass(Tensor))


def resize(sample: Sample, height: int, width: int) -> Sample:
    """Resize to exactly (height, width)."""
    old_height, old_width = sample.image.shape[-2:]
    if (old_height, old_width) == (height, width):
        return sample
    image = F.resize(sample.image, [height, width], antialias=True)
    scale = torch.tensor([width / old_width, height / old_height] * 2)
    return sample._replace(image=image, boxes=sample.boxes * scale)


def random_crop(sample: Sample, height: int, width: int) -> Sample:
    """Crop to at most (height, width) at a random position; clip boxes, and remove those that become too small."""
    old_height, old_width = sample.image.shape[-2:]
    top = int(torch.randint(max(0, old_height - height) + 1, ()))
    left = int(torch.randint(max(0, old_width - width) + 1, ()))
    height, width = min(height, old_height), min(width, old_width)
    limits = torch.tensor([width, height, width, height])
    boxes = torch.minimum((sample.boxes - torch.tensor([left, top, left, top])).clamp(min=0), limits)
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(dim=1)
    return Sample(
        image=sample.image[:, top : top + height, left : left + width],
        boxes=boxes[kept],
        labels=sample.labels[kept],
        is_crowd=sample.is_crowd[kept],
    )
