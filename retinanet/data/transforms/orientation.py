"""Transforms that change the orientation of an image: flips and rotations by multiples of 90 degrees."""

from collections.abc import Sequence

import torch

from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import Partners
from retinanet.data.transforms.sample import Sample, chance, randint


class Flip:
    """Flip the image horizontally, from left to right, with probability p."""

    def __init__(self, p: float):
        self.p = p

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        return flip(sample) if chance(self.p) else sample


class VerticalFlip:
    """Flip the image vertically, upside down, with probability p."""

    def __init__(self, p: float):
        self.p = p

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        return vertical_flip(sample) if chance(self.p) else sample


class Rotate90:
    """Rotate the image by one of several multiples of 90 degrees, with probability p."""

    def __init__(self, p: float, angles: Sequence[int]):
        self.p = p
        self.angles = angles

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        if not chance(self.p):
            return sample
        return rotate90(sample, self.angles[randint(0, len(self.angles) - 1)])


def flip(sample: Sample) -> Sample:
    """Flip from left to right."""
    width = sample.size[1]
    x1, y1, x2, y2 = sample.boxes.T
    return sample._replace(image=sample.image.flip(-1), boxes=torch.stack([width - x2, y1, width - x1, y2], dim=1))


def vertical_flip(sample: Sample) -> Sample:
    """Flip upside down."""
    height = sample.size[0]
    x1, y1, x2, y2 = sample.boxes.T
    return sample._replace(image=sample.image.flip(-2), boxes=torch.stack([x1, height - y2, x2, height - y1], dim=1))


def rotate90(sample: Sample, angle: int) -> Sample:
    """Rotate anticlockwise by a multiple of 90 degrees."""
    turns = angle // 90
    boxes, (height, width) = sample.boxes, sample.size
    for _ in range(turns):  # the pixel at (x, y) moves to (y, width - x), and the sides of the image swap
        x1, y1, x2, y2 = boxes.T
        boxes = torch.stack([y1, width - x2, y2, width - x1], dim=1)
        height, width = width, height
    return sample._replace(image=sample.image.rot90(turns, dims=(-2, -1)), boxes=boxes)
