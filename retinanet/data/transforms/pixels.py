"""Transforms of pixel values: colour, brightness and contrast, blur, erasing."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import Partners
from retinanet.data.transforms.sample import FILL, Sample, Window, chance, randint, remove_covered, uniform

MIN_SIGMA = 0.1  # pixels
MIN_ERASED_AREA = 0.02  # fraction of the image area
MAX_ERASED_ASPECT = 3.3  # ratio of the sides of the erased rectangle


class Color:
    """Apply a torchvision transform that changes colours only."""

    def __init__(self, transform: v2.Transform):
        self.transform = transform

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        image: Tensor = self.transform(sample.image)
        return sample._replace(image=image)


class BrightnessContrast:
    """Change the brightness and the contrast of an image with any number of channels, in random order.

    Both are defined as in torchvision's `ColorJitter`, but contrast is changed around the mean of each channel, because
    channels may be in different units, and the result is rounded once.

    Args:
        brightness, contrast: each factor is drawn from 1 - value to 1 + value.
    """

    def __init__(self, brightness: float, contrast: float):
        self.brightness = brightness
        self.contrast = contrast

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        changes = [("brightness", self.brightness), ("contrast", self.contrast)]
        pixels = sample.image.float()
        for index in torch.randperm(2).tolist():
            kind, most = changes[index]
            factor = uniform(1 - most, 1 + most)
            middle = pixels.mean(dim=(1, 2), keepdim=True) if kind == "contrast" else pixels.new_zeros(())
            pixels = (factor * pixels + (1 - factor) * middle).clamp_(0, 255)
        return sample._replace(image=pixels.round_().to(torch.uint8))


class Blur:
    """Apply a Gaussian filter with a standard deviation of up to `max_sigma` pixels, with probability p."""

    def __init__(self, p: float, max_sigma: float):
        self.p = p
        self.max_sigma = max_sigma

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        if not chance(self.p):
            return sample
        sigma = uniform(MIN_SIGMA, self.max_sigma)
        # The filter mirrors the image at its edges, so the radius must be less than its sides.
        radius = min(math.ceil(3 * sigma), min(sample.size) - 1)
        return sample._replace(image=F.gaussian_blur(sample.image, [2 * radius + 1] * 2, [sigma] * 2))


class Erase:
    """Blank out a rectangle of at most `max_area`, a fraction of the image area, with probability p."""

    def __init__(self, p: float, max_area: float, fill: Sequence[int] = FILL):
        self.p = p
        self.max_area = max_area
        self.fill = fill

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        if not chance(self.p):
            return sample
        height, width = sample.size
        area = uniform(MIN_ERASED_AREA, self.max_area) * height * width
        aspect = math.exp(uniform(-math.log(MAX_ERASED_ASPECT), math.log(MAX_ERASED_ASPECT)))
        erased_height = min(height, max(1, round(math.sqrt(area * aspect))))
        erased_width = min(width, max(1, round(math.sqrt(area / aspect))))
        top, left = randint(0, height - erased_height), randint(0, width - erased_width)
        return erase(sample, Window(top, left, erased_height, erased_width), self.fill)


def erase(sample: Sample, window: Window, fill: Sequence[int] = FILL) -> Sample:
    """Blank out a window and remove the objects that it covers."""
    top, left, height, width = window
    image = sample.image.clone()
    image[:, top : top + height, left : left + width] = torch.tensor(fill, dtype=torch.uint8).reshape(-1, 1, 1)
    return remove_covered(sample._replace(image=image), window)
