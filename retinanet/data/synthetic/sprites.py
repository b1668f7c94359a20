"""Draw the outlines, textures and colours of the bundled shapes dataset, and paint them into an image.

Integer arithmetic is used wherever rounding could change a pixel, so pixels are the same on every machine.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw

CLASSES: tuple[str, ...] = ("disc", "ring", "rectangle", "triangle", "star", "cross")
# Most objects of a class are close to this colour and the rest have any colour, so only the shape is decisive.
COLOURS = ((220, 50, 50), (50, 90, 220), (235, 205, 50), (60, 205, 215), (240, 140, 40), (230, 110, 190))
COLOURED = 0.95
DISTRACTORS = ("line", "arc", "blob", "half-disc", "squiggle", "corner")
FINE = 4  # sub-pixels along each side of a pixel

Box = tuple[float, float, float, float]  # x1, y1, x2, y2, pixels
Points = list[tuple[float, float]]
Window = tuple[slice, slice]  # rows, columns


class Sprite(NamedTuple):
    """A shape that has not been placed yet; its top left corner will be aligned to whole pixels."""

    fine: Image.Image  # FINE w x FINE h, 255 inside the shape and 0 outside
    cover: np.ndarray  # (h, w) 0..255, fraction of each pixel covered by the shape
    solid: np.ndarray  # (h, w) bool, the pixels that belong to the shape
    box: Box  # tight box around the shape, relative to the sprite's top left corner
    outlines: list[Points]  # of the filled parts and holes, in sub-pixels; empty for strokes
    rim_width: int  # sub-pixels


def polygon(num_corners: int, radii: Sequence[float] = (1.0,), start: float = 0.0, end: float = 2 * math.pi) -> Points:
    """Return corners at evenly spaced angles in [start, end), cycling through the radii."""
    angles = [start + (end - start) * i / num_corners for i in range(num_corners)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


ARM = 0.34  # half the width of a cross's bars
HALF_CROSS = [(ARM, 1), (ARM, ARM), (1, ARM), (1, -ARM), (ARM, -ARM), (ARM, -1)]
SOLIDS: dict[str, Points] = {
    "disc": polygon(64),
    "ring": polygon(64),
    "rectangle": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": polygon(3),
    "cross": HALF_CROSS + [(-x, -y) for x, y in HALF_CROSS],
    "half-disc": polygon(32, end=math.pi * 33 / 32),
    "corner": [(-1, -1), (-0.3, -1), (-0.3, 0.3), (1, 0.3), (1, 1), (-1, 1)],
}


def parts_of(kind: str, rng: np.random.Generator) -> list[tuple[Points, float]]:
    """Return polygons to draw, in order, each with 1 to fill it, 0 to cut it out, or a stroke width in between."""
    match kind:
        case "ring":
            return [(SOLIDS["ring"], 1), (polygon(64, (rng.uniform(0.5, 0.65),)), 0)]
        case "star":
            return [(polygon(10, (1.0, rng.uniform(0.38, 0.48))), 1)]
        case "blob":
            shift, depth = rng.uniform(0, 6), rng.uniform(0.25, 0.4)
            angles = [math.pi * i / 24 for i in range(48)]
            return [(polygon(48, [1 + depth * math.cos(2 * a + shift) + 0.2 * math.cos(3 * a) for a in angles]), 1)]
        case "line":
            return [([(-1, 0), (1, 0)], rng.uniform(0.05, 0.15))]
        case "arc":
            return [(polygon(24, end=rng.uniform(1.2, 4.2)), rng.uniform(0.1, 0.25))]
        case "squiggle":
            return [([tuple(p) for p in rng.uniform(-1, 1, (rng.integers(4, 7), 2)).tolist()], rng.uniform(0.1, 0.2))]
    return [(SOLIDS[kind], 1)]


def draw_sprite(kind: str, size: int, rng: np.random.Generator) -> Sprite:
    """Draw a shape with random rotation, proportions and outline width; the longer side of its box is `size` pixels."""
    parts = parts_of(kind, rng)
    stretch, turn = rng.uniform(0.5 if kind == "rectangle" else 0.75, 1), rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    turned = [[(x * cos - y * stretch * sin, x * sin + y * stretch * cos) for x, y in points] for points, _ in parts]
    xs, ys = zip(*turned[0], strict=True)
    left, top = min(xs), min(ys)
    # Pillow includes the end points, so subtract 1 to get exactly FINE * size sub-pixels.
    scale = (FINE * size - 1) / max(max(xs) - left, max(ys) - top)
    stroke = max([round(ink * FINE * size) for _, ink in parts if 0 < ink < 1], default=0)
    shift_x, shift_y = (rng.integers(0, FINE, 2) + stroke).tolist()
    outlines = [[(round((x - left) * scale) + shift_x, round((y - top) * scale) + shift_y) for x, y in points]
                for points in turned]  # fmt: skip
    width = math.ceil((max(x for x, _ in outlines[0]) + 1 + stroke) / FINE)
    height = math.ceil((max(y for _, y in outlines[0]) + 1 + stroke) / FINE)

    fine = Image.new("L", (FINE * width, FINE * height))
    pen = ImageDraw.Draw(fine)
    rim_width = max(FINE, round(FINE * size * rng.uniform(0.04, 0.1)))
    closed = []
    for outline, (_, ink) in zip(outlines, parts, strict=True):
        if ink in (0, 1):
            pen.polygon(outline, fill=255 * ink)
            closed.append(outline)
        else:
            pen.line(outline, fill=255, width=max(FINE, stroke), joint="curve")
    cover = np.asarray(fine.reduce(FINE))
    return Sprite(fine, cover, cover >= 128, tight_box(fine), closed, rim_width)


def draw_rim(sprite: Sprite) -> np.ndarray:
    """Draw the outline inside a shape: the coverage of each pixel, (h, w) 0..255."""
    rim = Image.new("L", sprite.fine.size)
    pen = ImageDraw.Draw(rim)
    for outline in sprite.outlines:
        pen.line([*outline, outline[0]], fill=255, width=sprite.rim_width)
    return np.asarray(ImageChops.darker(rim, sprite.fine).reduce(FINE))


def texture(width: int, height: int, rng: np.random.Generator, kinds: Sequence[str]) -> np.ndarray:
    """Draw a random pattern, (height, width) int16 in -128..127."""
    kind = kinds[rng.integers(len(kinds))]
    if kind == "noise":
        cell = int(rng.choice([5, 12, 30, 80]))
        grid = rng.integers(0, 256, (height // cell + 2, width // cell + 2), dtype=np.uint8)
        smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(smooth).astype(np.int16) - 128
    a, b = rng.integers(-4, 5, 2).tolist()
    a = a or 1
    y, x = np.arange(height, dtype=np.int16)[:, None], np.arange(width, dtype=np.int16)
    along, across = a * x + b * y, b * x - a * y
    if kind == "gradient":
        along = along.astype(np.int32) - along.min()
        return (along * 255 // max(1, int(along.max())) - 128).astype(np.int16)
    period = max(abs(a), abs(b)) * int(rng.integers(3, 24))
    cells = along // period if kind == "stripes" else along // period + across // period
    return (cells & 1) * 255 - 128


def draw_background(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a background, (3, height, width) int16, with unclipped values."""
    # Nearly grey, to make coloured shapes stand out.
    grey = rng.integers(60, 196, dtype=np.int32) + rng.integers(-20, 21, 3, dtype=np.int32)
    planes = np.empty((3, height, width), dtype=np.int16)
    planes[:] = grey[:, None, None]
    for kinds, strength in ((("noise",), 30), (("noise",), 20), (("gradient", "stripes", "checks", "noise"), 24)):
        tint = rng.integers(-strength, strength + 1, dtype=np.int32)
        tint = tint + rng.integers(-strength // 4, strength // 4 + 1, 3, dtype=np.int32)
        pattern = texture(width, height, rng, kinds)
        for plane, amount in zip(planes, tint.tolist(), strict=True):
            plane += pattern * amount >> 7
    return planes


def crop(sprite: Sprite, x: int, y: int, width: int, height: int) -> tuple[Window, Window]:
    """Return the overlap of sprite and image as a window of the image and a window of the sprite."""
    sprite_height, sprite_width = sprite.cover.shape
    top, left = max(y, 0), max(x, 0)
    bottom, right = max(top, min(y + sprite_height, height)), max(left, min(x + sprite_width, width))
    return (slice(top, bottom), slice(left, right)), (slice(top - y, bottom - y), slice(left - x, right - x))


def paint(planes: np.ndarray, sprite: Sprite, x: int, y: int, rng: np.random.Generator, label: int | None) -> None:
    """Blend the sprite in, usually in the colour of its class, otherwise in one that differs from the background.

    Args:
        planes: (3, height, width) int16, changed in place.
    """
    window, sprite_window = crop(sprite, x, y, planes.shape[2], planes.shape[1])
    under = planes[:, *window].astype(np.int32)
    is_faint = rng.random() < 0.06
    contrast = int(rng.integers(20, 36) if is_faint else rng.integers(50, 120))
    direction = rng.integers(-8, 9, 3)
    direction[rng.integers(3)] = 8 if rng.random() < 0.5 else -8
    middle = under.sum(axis=(1, 2), dtype=np.int32) // max(1, under.shape[1] * under.shape[2])
    step = direction * contrast // 8
    colour = np.where((middle + step < 0) | (middle + step > 255), middle - step, middle + step).astype(np.int32)
    if label is not None and rng.random() < COLOURED:
        colour = np.array(COLOURS[label], dtype=np.int32) + rng.integers(-24, 25, 3, dtype=np.int32)
        if is_faint:
            colour = (middle + colour) // 2

    colour = colour.astype(np.int32)[:, None, None]
    layers = [(sprite.cover, colour)]
    if rng.random() < 0.3:
        pattern = texture(*sprite.cover.shape[::-1], rng, ("gradient", "stripes", "checks", "noise"))
        pattern = pattern[sprite_window] * int(rng.integers(contrast // 6, contrast // 2)) // 128
        layers = [(sprite.cover, colour + pattern)]
    if rng.random() < 0.4:
        layers.append((draw_rim(sprite), colour + int(rng.choice([-1, 1])) * int(rng.integers(20, 90))))
    for cover, layer in layers:
        under += (layer - under) * cover[sprite_window] // 255
    planes[:, *window] = under


def tight_box(fine: Image.Image) -> Box:
    """Return the box around the non-zero part of a sub-pixel image, in pixels; all zeros if it is empty."""
    left, top, right, bottom = fine.getbbox() or (0, 0, 0, 0)
    return left / FINE, top / FINE, right / FINE, bottom / FINE


def extent(sprite: Sprite, x: int, y: int, width: int, height: int) -> Box:
    """Return the tight box around the part of a sprite inside the image; all zeros if there is none."""
    sprite_height, sprite_width = sprite.cover.shape
    if x >= 0 and y >= 0 and x + sprite_width <= width and y + sprite_height <= height:
        left, top, right, bottom = sprite.box
        return x + left, y + top, x + right, y + bottom
    left, top, right, bottom = tight_box(fine_inside(sprite, x, y, width, height))
    if right == 0:
        return 0.0, 0.0, 0.0, 0.0
    return max(x, 0) + left, max(y, 0) + top, max(x, 0) + right, max(y, 0) + bottom


def area_inside(sprite: Sprite, x: int, y: int, width: int, height: int) -> float:
    """Return the area of the part of a sprite inside the image."""
    return int(np.count_nonzero(np.asarray(fine_inside(sprite, x, y, width, height)))) / FINE**2


def fine_inside(sprite: Sprite, x: int, y: int, width: int, height: int) -> Image.Image:
    """Return the sub-pixels of a sprite inside the image."""
    _, (rows, columns) = crop(sprite, x, y, width, height)
    return sprite.fine.crop((FINE * columns.start, FINE * rows.start, FINE * columns.stop, FINE * rows.stop))
