"""Transforms that determine the size of an image: resizing, scale jitter, cropping, zooming out."""

from collections.abc import Sequence

import torch

from retinanet.data.padded_shapes import resized
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import Partners
from retinanet.data.transforms.sample import (
    FILL,
    Sample,
    Window,
    blank,
    chance,
    crop,
    fit_size,
    paste,
    randint,
    random_crop,
    random_resized_crop,
    resize,
    select,
    uniform,
)

# SSD's minimum IoUs of an object with the window. None keeps the whole image; 0 only requires an object's centre.
MIN_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
TRIES = 40  # windows to try before a new minimum is drawn
MAX_ASPECT = 2.0  # ratio of the sides of the window


def planned_size(sample: Sample, planned: PlannedImage) -> tuple[int, int]:
    """Return the height and width after resizing.

    An image has its planned size unless an earlier transform changed its shape or it replaces another image. In these
    cases it is shrunk as far as necessary to fit `max_shape`.
    """
    height, width = resized(*sample.size, planned.shorter, planned.longer)
    if height <= planned.max_shape[0] and width <= planned.max_shape[1]:
        return height, width
    return fit_size(*sample.size, planned.max_shape)


def resize_as_planned(sample: Sample, planned: PlannedImage) -> Sample:
    """Resize to the planned size, keeping the aspect ratio. Prediction uses no other transform."""
    return resize(sample, *planned_size(sample, planned))


class Resize:
    """Resize to the planned size, keeping the aspect ratio. Evaluation uses no other transform."""

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        return resize_as_planned(sample, planned)


class ScaleJitter:
    """Scale the planned size by a random factor from `low` to `high`, and crop the result to `max_shape`.

    Although the batch may have a larger padded shape, augmentation must not depend on other images in the batch. The
    window is cut out before resizing, to avoid resizing pixels that are cropped away.
    """

    def __init__(self, low: float, high: float):
        self.low = low
        self.high = high

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        factor = uniform(self.low, self.high)
        height, width = (max(1, round(side * factor)) for side in planned_size(sample, planned))
        new_height, new_width = min(height, planned.max_shape[0]), min(width, planned.max_shape[1])
        old_height, old_width = sample.size
        window = max(1, round(old_height * new_height / height)), max(1, round(old_width * new_width / width))
        return random_resized_crop(sample, window, (new_height, new_width))


class Crop:
    """Cut out a window of at most (height, width) at a random position."""

    def __init__(self, height: int, width: int):
        self.height = height
        self.width = width

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        return random_crop(sample, self.height, self.width)


class IoUCrop:
    """With probability p, cut out a random window whose IoU with an object reaches a random minimum (SSD).

    Objects whose centre is outside the window are removed; crowd regions are clipped. An image without objects is not
    cropped.
    """

    def __init__(self, p: float, min_scale: float):
        self.p = p
        self.min_scale = min_scale

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        if not chance(self.p) or sample.is_crowd.all():
            return sample
        window = self.draw_window(sample)
        if window is None:
            return sample
        kept = sample.is_crowd | has_centre_inside(sample.boxes, window)
        return crop(select(sample, kept), window)

    def draw_window(self, sample: Sample) -> Window | None:
        """Draw the window for an image with objects; None: the whole image."""
        height, width = sample.size
        objects = sample.boxes[~sample.is_crowd]
        while True:
            min_iou = MIN_IOUS[randint(0, len(MIN_IOUS) - 1)]
            if min_iou is None:
                return None
            for _ in range(TRIES):
                share = self.min_scale + (1 - self.min_scale) * torch.rand(2)
                new_width, new_height = int(width * share[0]), int(height * share[1])
                if min(new_width, new_height) < 1 or not 1 / MAX_ASPECT <= new_width / new_height <= MAX_ASPECT:
                    continue
                place = torch.rand(2)
                left, top = int((width - new_width) * place[0]), int((height - new_height) * place[1])
                window = Window(top, left, new_height, new_width)
                inside = objects[has_centre_inside(objects, window)]
                if len(inside) and max_iou(inside, window) >= min_iou:
                    return window


def has_centre_inside(boxes: torch.Tensor, window: Window) -> torch.Tensor:
    """Return whether the centre of each box is inside a window: (N,) bool."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centre > window.limits[:2]) & (centre < window.limits[2:])).all(dim=1)


def max_iou(boxes: torch.Tensor, window: Window) -> float:
    """Compute the largest IoU of any box with a window."""
    limits = window.limits
    sides = torch.minimum(boxes[:, 2:], limits[2:]) - torch.maximum(boxes[:, :2], limits[:2])
    overlap = sides.clamp(min=0).prod(dim=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + window.height * window.width
    return (overlap / (area - overlap)).max().item()


class ZoomOut:
    """With probability p, shrink the image by up to a factor `most` and place it on a blank image of its former size.

    Torchvision's transform of this name enlarges the canvas instead. After resizing, both are equivalent.
    """

    def __init__(self, p: float, most: float, fill: Sequence[int] = FILL):
        self.p = p
        self.most = most
        self.fill = fill

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        if not chance(self.p):
            return sample
        height, width = sample.size
        factor = uniform(1.0, self.most)
        small = resize(sample, max(1, round(height / factor)), max(1, round(width / factor)))
        top, left = randint(0, height - small.size[0]), randint(0, width - small.size[1])
        return paste(blank(height, width, self.fill), small, top, left)
