"""Scenes of the bundled shapes dataset: place shapes, distractors and crowds, and annotate them.

A box tightly encloses the part of a shape inside the image, even if other shapes cover some of it.
A crowd is a single annotation around a dense cluster; its members are not annotated individually.
"""

import math
from typing import NamedTuple

import numpy as np

from retinanet.data.synthetic.sprites import (
    CLASSES,
    DISTRACTORS,
    Box,
    area_inside,
    crop,
    draw_background,
    draw_sprite,
    extent,
    paint,
)

SPLITS = ("train", "val")
IMAGE_SIZES = ((320, 256), (256, 320), (256, 256))  # (width, height), pixels

MIN_SIZE, MAX_SIZE = 10, 200  # longer side of a box, pixels
MIN_VISIBLE = 0.7  # minimum fraction of a labelled shape neither cut off by the border nor hidden by another shape
MIN_INSIDE = 0.5  # minimum fraction of its box inside the image
MAX_IOU = 0.55  # two boxes with a higher IoU could not both survive NMS
OVERLAP_IOU = (0.08, 0.45)  # range for pairs that overlap on purpose
MAX_CHANCE_COVER = 0.15  # largest fraction of the smaller box that may be covered by accident
MAX_CROWD_COVER = 0.1


class Annotation(NamedTuple):
    """A labelled object or crowd in an image."""

    label: int  # index into CLASSES
    box: Box
    area: float  # pixels of the shape inside the image
    is_crowd: bool


def area_of(box: Box) -> float:
    """Compute the area of a box; 0 if it is inverted."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a: Box, b: Box) -> float:
    """Compute the area of the intersection of two boxes."""
    return area_of((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Box, b: Box) -> float:
    """Compute the intersection over union of two boxes."""
    shared = intersection(a, b)
    return shared / (area_of(a) + area_of(b) - shared)


def log_uniform(low: int, high: int, rng: np.random.Generator, skew: float = 1.0) -> int:
    """Draw a log-uniform integer; a skew below 1 favours large values."""
    return min(high, round(low * math.exp(rng.random() ** skew * math.log(high / low))))


class Scene:
    """An image under construction, with its annotations so far."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.width, self.height = IMAGE_SIZES[(0, 0, 0, 0, 1, 1, 1, 1, 2)[rng.integers(9)]]
        self.planes = draw_background(self.width, self.height, rng)  # (3, height, width) int16
        self.annotations: list[Annotation] = []
        # Number, from 1, of the topmost labelled object at each pixel; 0 where there is none.
        self.topmost = np.zeros((self.height, self.width), dtype=np.uint8)
        self.spare_pixels: list[int] = []  # number of each object's pixels that may still be covered

    def add_distractor(self) -> None:
        """Paint an unlabelled shape."""
        sprite = draw_sprite(DISTRACTORS[self.rng.integers(len(DISTRACTORS))], log_uniform(12, 120, self.rng), self.rng)
        height, width = sprite.cover.shape
        x, y = self.rng.integers(0, self.width) - width // 2, self.rng.integers(0, self.height) - height // 2
        label = int(self.rng.integers(len(CLASSES))) if self.rng.random() < 0.3 else None
        paint(self.planes, sprite, int(x), int(y), self.rng, label)

    def add_crowd(self) -> None:
        """Paint a dense cluster of one class, with a single crowd annotation."""
        rng, label = self.rng, int(self.rng.integers(len(CLASSES)))
        num_members, size = int(rng.integers(12, 31)), int(rng.integers(11, 20))
        columns = round(math.sqrt(num_members * rng.uniform(0.6, 1.8)))
        cell, jitter = size - 1, size // 4
        span_x, span_y = (n * cell + 2 * jitter + size for n in (columns, math.ceil(num_members / columns)))
        left, top = int(rng.integers(0, self.width - span_x)), int(rng.integers(0, self.height - span_y))
        boxes, covered = [], np.zeros((self.height, self.width), dtype=bool)
        for i in range(num_members):
            sprite = draw_sprite(CLASSES[label], max(MIN_SIZE, size + int(rng.integers(-3, 5))), rng)
            shift_x, shift_y = rng.integers(0, 2 * jitter + 1, 2).tolist()
            x, y = left + i % columns * cell + shift_x, top + i // columns * cell + shift_y
            boxes.append(extent(sprite, x, y, self.width, self.height))
            window, sprite_window = crop(sprite, x, y, self.width, self.height)
            covered[window] |= sprite.solid[sprite_window]
            paint(self.planes, sprite, x, y, rng, label)
        lows, highs = zip(*((box[:2], box[2:]) for box in boxes), strict=True)
        box = (*map(min, zip(*lows, strict=True)), *map(max, zip(*highs, strict=True)))
        self.annotations.append(Annotation(label, box, float(covered.sum()), is_crowd=True))

    def add_object(self) -> None:
        """Place one object so that all visibility and overlap rules hold; skip it if no such position is found."""
        rng, label = self.rng, int(self.rng.integers(len(CLASSES)))
        size = log_uniform(MIN_SIZE, MAX_SIZE, rng, skew=0.5)
        sprite = draw_sprite(CLASSES[label], size, rng)
        height, width = sprite.cover.shape
        needed = math.ceil(MIN_VISIBLE * np.count_nonzero(sprite.solid))
        # Only boxes of similar size can overlap substantially.
        partners = [a.box for a in self.annotations if not a.is_crowd and 0.4 < longer_side(a.box) / size < 2.5]
        partner = partners[rng.integers(len(partners))] if partners and rng.random() < 0.2 else None
        cut_x, cut_y = (width // 2, height // 2) if rng.random() < 0.25 else (0, 0)
        for _ in range(40):
            if partner is None:
                x = int(rng.integers(-cut_x, self.width - width + cut_x + 1))
                y = int(rng.integers(-cut_y, self.height - height + cut_y + 1))
            else:
                x = int(rng.integers(int(partner[0]) - width, int(partner[2]) + 1))
                y = int(rng.integers(int(partner[1]) - height, int(partner[3]) + 1))
            box = extent(sprite, x, y, self.width, self.height)
            is_inside = longer_side(box) >= MIN_SIZE and area_of(box) >= MIN_INSIDE * area_of(sprite.box)
            if partner is None:
                fits = all(apart(box, other.box) for other in self.annotations)
            else:
                fits = OVERLAP_IOU[0] <= iou(box, partner) <= OVERLAP_IOU[1]
            if not (is_inside and fits and self.allows(box)):
                continue
            window, sprite_window = crop(sprite, x, y, self.width, self.height)
            solid = sprite.solid[sprite_window]
            covered = np.bincount(self.topmost[window][solid], minlength=1 + len(self.spare_pixels)).tolist()
            spare_pixels = [spare - lost for spare, lost in zip(self.spare_pixels, covered[1:], strict=True)]
            spare_pixels.append(int(np.count_nonzero(solid)) - needed)
            if min(spare_pixels) >= 0:
                paint(self.planes, sprite, x, y, rng, label)
                self.spare_pixels = spare_pixels
                self.topmost[window][solid] = len(spare_pixels)
                area = area_inside(sprite, x, y, self.width, self.height)
                self.annotations.append(Annotation(label, box, area, is_crowd=False))
                return

    def allows(self, box: Box) -> bool:
        """Return whether a box overlaps no other box too much."""
        for other in self.annotations:
            if other.is_crowd:
                if intersection(box, other.box) > MAX_CROWD_COVER * min(area_of(box), area_of(other.box)):
                    return False
            elif iou(box, other.box) > MAX_IOU:
                return False
        return True

    def finish(self) -> np.ndarray:
        """Vary contrast and brightness, add noise, and return the image: (height, width, 3) uint8."""
        contrast, brightness, strength = (int(self.rng.integers(*span)) for span in ((40, 76), (-30, 31), (1, 7)))
        noise = self.rng.integers(-strength, strength + 1, (3, self.height, self.width), dtype=np.int8)
        # Values beyond +-430 end up outside 0..255 at any contrast; for smaller ones, the product fits into 16 bits.
        planes = ((self.planes - 128).clip(-430, 430) * contrast >> 6) + (128 + brightness) + noise
        return np.stack([*planes.clip(0, 255).astype(np.uint8)], axis=2)


def apart(a: Box, b: Box) -> bool:
    """Return whether two boxes overlap little enough to be accepted."""
    return intersection(a, b) <= MAX_CHANCE_COVER * min(area_of(a), area_of(b))


def longer_side(box: Box) -> float:
    """Return the longer side of a box in pixels."""
    return max(box[2] - box[0], box[3] - box[1])


def draw_image(seed: int, split: str, index: int) -> tuple[np.ndarray, list[Annotation]]:
    """Draw an image, (height, width, 3) uint8, and its annotations; both depend only on the arguments."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = Scene(rng)
    for _ in range(rng.integers(1, 5)):
        scene.add_distractor()
    if rng.random() >= 0.06:
        if rng.random() < 0.21:
            scene.add_crowd()
        for _ in range(rng.integers(2, 9)):
            scene.add_object()
    return scene.finish(), scene.annotations
