"""What happens to an image and its boxes before they join a batch.

Randomness is torch's global generator, seeded by the caller.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from retinanet.config import ColorTransform, FlipTransform, ResizeTransform, ScaleJitterTransform, Transform
from retinanet.data.sampler import PlannedImage, resized

MIN_SIDE = 1.0  # pixels; a box with less of it left after cropping is gone


class Sample(NamedTuple):
    """An image with its ground truth, both in the same pixels."""

    image: Tensor  # (3, H, W) uint8
    boxes: Tensor  # (N, 4) float32
    labels: Tensor  # (N,) int64
    is_crowd: Tensor  # (N,) bool


Step = Callable[[Sample, PlannedImage], Sample]


def build_transforms(cfg: Sequence[Transform]) -> list[Step]:
    """The steps of training, in order."""
    steps: list[Step] = []
    for step in cfg:
        match step:
            case ResizeTransform():
                steps.append(Resize())
            case ScaleJitterTransform():
                steps.append(ScaleJitter(step.min, step.max))
            case FlipTransform():
                steps.append(TorchvisionStep(v2.RandomHorizontalFlip(step.p)))
            case ColorTransform():
                jitter = v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)
                steps.append(TorchvisionStep(jitter))
    return steps


class Resize:
    """Fit into the batch's shape, aspect ratio kept. Evaluation has this step alone."""

    def __call__(self, example: Sample, sample: PlannedImage) -> Sample:
        return resize(example, *resized(*example.image.shape[-2:], sample.shorter, sample.longer))


class ScaleJitter:
    """Fit times a factor drawn from `low` to `high`; what is larger than the batch's shape is cropped at random."""

    def __init__(self, low: float, high: float):
        self.low = low
        self.high = high

    def __call__(self, example: Sample, sample: PlannedImage) -> Sample:
        factor = torch.empty(()).uniform_(self.low, self.high).item()
        height, width = resized(*example.image.shape[-2:], sample.shorter, sample.longer)
        example = resize(example, max(1, round(height * factor)), max(1, round(width * factor)))
        return random_crop(example, *sample.padded_shape)


class TorchvisionStep:
    """Any transform of torchvision.transforms.v2 that keeps the number of boxes."""

    def __init__(self, transform: v2.Transform):
        self.transform = transform

    def __call__(self, example: Sample, sample: PlannedImage) -> Sample:
        size = tuple(example.image.shape[-2:])
        boxes = tv_tensors.BoundingBoxes(example.boxes, format="XYXY", canvas_size=size)
        image, boxes = self.transform(tv_tensors.Image(example.image), boxes)
        return example._replace(image=image.as_subclass(Tensor), boxes=boxes.as_subclass(Tensor))


def resize(example: Sample, height: int, width: int) -> Sample:
    """To exactly (height, width)."""
    old_height, old_width = example.image.shape[-2:]
    if (old_height, old_width) == (height, width):
        return example
    image = F.resize(example.image, [height, width], antialias=True)
    scale = torch.tensor([width / old_width, height / old_height] * 2)
    return example._replace(image=image, boxes=example.boxes * scale)


def random_crop(example: Sample, height: int, width: int) -> Sample:
    """At most (height, width) at a random place; boxes are cut, and go where nothing of them is left."""
    old_height, old_width = example.image.shape[-2:]
    top = int(torch.randint(max(0, old_height - height) + 1, ()))
    left = int(torch.randint(max(0, old_width - width) + 1, ()))
    height, width = min(height, old_height), min(width, old_width)
    limits = torch.tensor([width, height, width, height])
    boxes = torch.minimum((example.boxes - torch.tensor([left, top, left, top])).clamp(min=0), limits)
    left_over = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(dim=1)
    return Sample(
        example.image[:, top : top + height, left : left + width],
        boxes[left_over],
        example.labels[left_over],
        example.is_crowd[left_over],
    )
