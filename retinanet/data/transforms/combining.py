"""Transforms that combine several images: mosaic, mix-up, copy-paste.

The other images are used as stored. Transforms that precede these in the list are not applied to them; transforms that
follow are applied to the combined image. Without other images, these transforms do nothing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.partners import Partners
from retinanet.data.transforms.sample import (
    FILL,
    MAX_COVERED,
    Sample,
    Window,
    blank,
    chance,
    cover,
    crop,
    fit_size,
    join,
    paste,
    randint,
    remove_covered,
    resize,
    select,
    share_inside,
)
from retinanet.data.transforms.sizing import planned_size, resize_as_planned


class Mosaic:
    """Combine the image and three others around a random centre, with probability p.

    The result has the planned size of the image. Its centre is in the middle half of both sides, so each tile has a
    quarter to three quarters of that size. Each image is resized to cover its tile and cropped at random. To vary the
    size of objects further, follow with `scale_jitter`.
    """

    def __init__(self, p: float, fill: Sequence[int] = FILL):
        self.p = p
        self.fill = fill

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        height, width = planned_size(sample, planned)
        if not chance(self.p) or min(height, width) < 4:  # too small to be divided
            return sample
        centre_y, centre_x = randint(height // 4, height * 3 // 4), randint(width // 4, width * 3 // 4)
        image, parts = blank(height, width, self.fill), []
        for number in range(4):  # from left to right, from top to bottom
            tile = partners.draw() if number else sample
            if tile is None:
                return sample
            top, tile_height = (0, centre_y) if number < 2 else (centre_y, height - centre_y)
            left, tile_width = (0, centre_x) if number % 2 == 0 else (centre_x, width - centre_x)
            parts.append(paste(image, cover(tile, tile_height, tile_width), top, left))
        return join(image, parts)


class MixUp:
    """Blend the image with another one, with probability p.

    The result has the planned size of the image. The other image is resized to fit and placed at random; pixels that it
    does not cover remain unchanged. The image's weight in the blend is drawn from Beta(alpha, alpha).
    """

    def __init__(self, p: float, alpha: float):
        self.p = p
        self.alpha = alpha

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        if not chance(self.p) or (partner := partners.draw()) is None:
            return sample
        sample = resize_as_planned(sample, planned)
        partner = resize(partner, *fit_size(*partner.size, sample.size))
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        top, left = (randint(0, most - side) for most, side in zip(sample.size, partner.size, strict=True))
        return mix(sample, partner, share, top, left)


def mix(sample: Sample, partner: Sample, share: float, top: int, left: int) -> Sample:
    """Blend an image with another one, whose upper left corner is placed at (top, left)."""
    height, width = partner.size
    below = sample.image[:, top : top + height, left : left + width].float()
    blended = below.mul_(share).add_(partner.image.float().mul_(1 - share)).round_().to(torch.uint8)
    image = sample.image.clone()
    return join(image, [sample, paste(image, partner._replace(image=blended), top, left)])


class CopyPaste:
    """With probability p, paste the boxes of up to `max_objects` objects from another image at random positions.

    The other image is first resized to fit into this one. The pixels of a pasted box may show other objects too: those
    with at least a fraction 1 - `MAX_COVERED` inside the box are included, clipped. Crowd regions are always included.
    """

    def __init__(self, p: float, max_objects: int):
        self.p = p
        self.max_objects = max_objects

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        if not chance(self.p) or (partner := partners.draw()) is None:
            return sample
        objects = (~partner.is_crowd).nonzero().flatten()
        chosen = objects[torch.randperm(len(objects))[: randint(1, self.max_objects)]]
        if not len(chosen):
            return sample
        partner = resize(partner, *fit_size(*partner.size, sample.size))
        sample = sample._replace(image=sample.image.clone())
        for box in partner.boxes[chosen]:
            part = cut_out(partner, box)
            top, left = (randint(0, most - side) for most, side in zip(sample.size, part.size, strict=True))
            sample = remove_covered(sample, Window(top, left, *part.size))
            sample = join(sample.image, [sample, paste(sample.image, part, top, left)])
        return sample


def cut_out(sample: Sample, box: Tensor) -> Sample:
    """Cut out a box, with all objects and crowd regions that are in it."""
    height, width = sample.size
    x1, y1, x2, y2 = box.tolist()
    top, left = min(math.floor(y1), height - 1), min(math.floor(x1), width - 1)
    bottom, right = min(max(math.ceil(y2), top + 1), height), min(max(math.ceil(x2), left + 1), width)
    window = Window(top, left, bottom - top, right - left)
    return crop(select(sample, sample.is_crowd | (share_inside(sample.boxes, window) >= 1 - MAX_COVERED)), window)
