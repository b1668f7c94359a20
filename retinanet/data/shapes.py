"""The embedded data set: eight kinds of shapes on textured backgrounds, drawn by code and written in COCO form.

Every picture depends on (seed, split, index) alone, so a smaller set is the beginning of a larger one. Integer
arithmetic wherever a last bit could show keeps pixels the same from machine to machine, given NumPy and Pillow.

A box is tight around what the image border leaves of a shape; another shape lying over it does not shrink it.
A crowd is one annotation around a dense cluster whose members have none of their own.
"""

import argparse
import json
import math
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from retinanet.errors import InputError

CLASSES: tuple[str, ...] = ("disc", "ring", "crescent", "rectangle", "hexagon", "triangle", "star", "cross")
CATEGORY_IDS = (1, 2, 3, 5, 8, 13, 21, 34)  # with gaps, as COCO's own are
# Most objects of a class are about this colour, the others any: colour helps, shape decides.
COLOURS = (
    (220, 50, 50),
    (50, 90, 220),
    (60, 180, 70),
    (235, 205, 50),
    (150, 70, 200),
    (60, 205, 215),
    (240, 140, 40),
    (230, 110, 190),
)
COLOURED = 0.9
DISTRACTORS = ("line", "arc", "blob", "half-disc", "squiggle", "corner")
SPLITS = ("train", "val")
IMAGE_SIZES = ((320, 256), (256, 320), (256, 256))  # (width, height), pixels
DRAWING_VERSION = 1  # raise it with every change that moves a pixel or a box
MARKER = "shapes.json"
HUFFMAN_ONLY = 2  # zlib's Z_HUFFMAN_ONLY
FINE = 4  # sub-pixels along each side of a pixel

MIN_SIZE, MAX_SIZE = 10, 200  # longer side of a box, pixels
MIN_VISIBLE = 0.4  # share of a labelled shape that neither the border nor another shape may hide
MIN_INSIDE = 0.5  # share of its box inside the image
MAX_IOU = 0.55  # two boxes closer than this could not both survive NMS
OVERLAP_IOU = (0.08, 0.45)  # of a pair that is placed one over the other on purpose
MAX_CROWD_COVER = 0.1

Box = tuple[float, float, float, float]  # x1, y1, x2, y2, pixels
Points = list[tuple[float, float]]


class Annotation(NamedTuple):
    """One labelled thing of one picture."""

    label: int  # index into CLASSES
    box: Box
    area: float  # pixels of the shape inside the image
    is_crowd: bool


class Sprite(NamedTuple):
    """A shape before it is placed; its top left corner goes to a whole pixel of the image."""

    fine: np.ndarray  # (FINE h, FINE w) bool, the shape
    cover: np.ndarray  # (h, w) 0..255, how much of each pixel the shape covers
    rim: np.ndarray  # (h, w) 0..255, the same for its outline

    @property
    def needed_pixels(self) -> int:
        """A labelled shape shows at least this many."""
        return math.ceil(MIN_VISIBLE * np.count_nonzero(self.cover >= 128))


def polygon(num_corners: int, radii: Sequence[float] = (1.0,), start: float = 0.0, end: float = 2 * math.pi) -> Points:
    """Corners at even angles from `start` up to, not including, `end`; the radii take turns."""
    angles = [start + (end - start) * i / num_corners for i in range(num_corners)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


def crescent() -> Points:
    """A unit disc less a disc of radius r whose centre lies d to the right."""
    r, d = 0.8, 0.35
    tip = (1 - r * r + d * d) / (2 * d)  # where the circles cross
    outer, inner = math.acos(tip), math.acos((tip - d) / r)
    hollow = polygon(40, (r,), 2 * math.pi - inner, inner)
    return polygon(40, start=outer, end=2 * math.pi - outer) + [(x + d, y) for x, y in hollow]


ARM = 0.34  # half the width of a cross's bars
HALF_CROSS = [(ARM, 1), (ARM, ARM), (1, ARM), (1, -ARM), (ARM, -ARM), (ARM, -1)]
SOLIDS: dict[str, Points] = {
    "disc": polygon(64),
    "ring": polygon(64),
    "crescent": crescent(),
    "rectangle": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "hexagon": polygon(6),
    "triangle": polygon(3),
    "cross": HALF_CROSS + [(-x, -y) for x, y in HALF_CROSS],
    "half-disc": polygon(32, end=math.pi * 33 / 32),
    "corner": [(-1, -1), (-0.3, -1), (-0.3, 0.3), (1, 0.3), (1, 1), (-1, 1)],
}


def parts_of(kind: str, rng: np.random.Generator) -> list[tuple[Points, float]]:
    """Polygons to draw in this order, each with its ink: 1 fills, 0 cuts out, in between strokes a line that wide."""
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
    """A shape of random rotation, proportions and outline width whose longer box side is `size` pixels."""
    parts = parts_of(kind, rng)
    stretch, turn = rng.uniform(0.5 if kind == "rectangle" else 0.75, 1), rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    turned = [[(x * cos - y * stretch * sin, x * sin + y * stretch * cos) for x, y in points] for points, _ in parts]
    xs, ys = [x for x, _ in turned[0]], [y for _, y in turned[0]]
    # Pillow paints the end points too, hence -1 for a shape of exactly FINE * size sub-pixels.
    scale = (FINE * size - 1) / max(max(xs) - min(xs), max(ys) - min(ys))
    stroke = max([round(ink * FINE * size) for _, ink in parts if 0 < ink < 1], default=0)
    shift_x, shift_y = (rng.integers(0, FINE, 2) + stroke).tolist()
    outlines = [[(round((x - min(xs)) * scale) + shift_x, round((y - min(ys)) * scale) + shift_y) for x, y in points]
                for points in turned]  # fmt: skip
    width = math.ceil((max(x for x, _ in outlines[0]) + 1 + stroke) / FINE)
    height = math.ceil((max(y for _, y in outlines[0]) + 1 + stroke) / FINE)

    fine, rim = (Image.new("L", (FINE * width, FINE * height)) for _ in range(2))
    rim_width = max(FINE, round(FINE * size * rng.uniform(0.04, 0.1)))
    for outline, (_, ink) in zip(outlines, parts, strict=True):
        if ink in (0, 1):
            ImageDraw.Draw(fine).polygon(outline, fill=255 * ink)
            ImageDraw.Draw(rim).line([*outline, outline[0]], fill=255, width=rim_width)
        else:
            ImageDraw.Draw(fine).line(outline, fill=255, width=max(FINE, stroke), joint="curve")
    rim.paste(0, mask=fine.point(lambda value: 255 - value))
    return Sprite(np.asarray(fine) > 0, np.asarray(fine.reduce(FINE)), np.asarray(rim.reduce(FINE)))


def texture(width: int, height: int, rng: np.random.Generator, kinds: Sequence[str]) -> np.ndarray:
    """One random pattern, (height, width) int32 in -128..127."""
    kind = kinds[rng.integers(len(kinds))]
    if kind == "noise":
        cell = int(rng.choice([5, 12, 30, 80]))
        grid = rng.integers(0, 256, (height // cell + 2, width // cell + 2), dtype=np.uint8)
        smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(smooth).astype(np.int32) - 128
    a, b = rng.integers(-4, 5, 2).tolist()
    a = a or 1
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    along, across = a * x + b * y, b * x - a * y
    if kind == "gradient":
        along = along - along.min()
        return along * 255 // max(1, int(along.max())) - 128
    period = max(abs(a), abs(b)) * int(rng.integers(3, 24))
    cells = along // period if kind == "stripes" else along // period + across // period
    return (cells % 2) * 255 - 128


def draw_background(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) int32, unclipped; a plane of memory per channel, on which NumPy is several times faster."""
    planes = np.empty((3, height, width), dtype=np.int32)
    # Nearly grey, so that the colours of shapes stand out.
    planes[:] = rng.integers(60, 196, dtype=np.int32) + rng.integers(-20, 21, 3, dtype=np.int32)[:, None, None]
    for kinds, strength in ((("noise",), 50), (("noise",), 35), (("gradient", "stripes", "checks", "noise"), 40)):
        tint = rng.integers(-strength, strength + 1, dtype=np.int32)
        tint = tint + rng.integers(-strength // 4, strength // 4 + 1, 3, dtype=np.int32)[:, None, None]
        planes += texture(width, height, rng, kinds) * tint >> 7
    return planes.transpose(1, 2, 0)


def crop(sprite: Sprite, x: int, y: int, width: int, height: int) -> tuple[slice, slice, slice, slice]:
    """Rows and columns of the image that the sprite covers, then those of the sprite that the image keeps."""
    sprite_height, sprite_width = sprite.cover.shape
    top, bottom, left, right = max(y, 0), min(y + sprite_height, height), max(x, 0), min(x + sprite_width, width)
    return slice(top, bottom), slice(left, right), slice(top - y, bottom - y), slice(left - x, right - x)


def paint(pixels: np.ndarray, sprite: Sprite, x: int, y: int, rng: np.random.Generator, label: int | None) -> None:
    """Blend the sprite in, mostly in the colour of its class, else in one that differs from what lies under it."""
    rows, columns, sprite_rows, sprite_columns = crop(sprite, x, y, pixels.shape[1], pixels.shape[0])
    under = pixels[rows, columns]
    is_faint = rng.random() < 0.1
    contrast = int(rng.integers(20, 36) if is_faint else rng.integers(50, 120))
    direction = rng.integers(-8, 9, 3)
    direction[rng.integers(3)] = 8 if rng.random() < 0.5 else -8
    middle = under.sum(axis=(0, 1)) // max(1, under.shape[0] * under.shape[1])
    step = direction * contrast // 8
    colour = np.where((middle + step < 0) | (middle + step > 255), middle - step, middle + step).astype(np.int32)
    if label is not None and rng.random() < COLOURED:
        colour = np.array(COLOURS[label], dtype=np.int32) + rng.integers(-24, 25, 3, dtype=np.int32)
        if is_faint:
            colour = (middle + colour) // 2

    layers = [(sprite.cover, colour)]
    if rng.random() < 0.6:
        pattern = texture(*sprite.cover.shape[::-1], rng, ("gradient", "stripes", "checks", "noise"))
        pattern = pattern[sprite_rows, sprite_columns, None]
        layers = [(sprite.cover, colour + pattern * int(rng.integers(contrast // 6, contrast // 2)) // 128)]
    if rng.random() < 0.4:
        layers.append((sprite.rim, colour + int(rng.choice([-1, 1])) * int(rng.integers(20, 90))))
    for cover, layer in layers:
        weight = cover[sprite_rows, sprite_columns, None].astype(np.int32)
        under[:] = (under * (255 - weight) + layer * weight) // 255


def extent(sprite: Sprite, x: int, y: int, width: int, height: int) -> tuple[Box, float, np.ndarray]:
    """Of the part inside the image: its tight box, its area, and its pixels as (height, width) bool."""
    rows, columns, sprite_rows, sprite_columns = crop(sprite, x, y, width, height)
    fine = sprite.fine[FINE * sprite_rows.start : FINE * sprite_rows.stop,
                       FINE * sprite_columns.start : FINE * sprite_columns.stop]  # fmt: skip
    pixels = np.zeros((height, width), dtype=bool)
    pixels[rows, columns] = sprite.cover[sprite_rows, sprite_columns] >= 128
    filled_rows, filled_columns = np.flatnonzero(fine.any(axis=1)), np.flatnonzero(fine.any(axis=0))
    if not len(filled_rows):
        return (0.0, 0.0, 0.0, 0.0), 0.0, pixels
    box = (
        columns.start + int(filled_columns[0]) / FINE,
        rows.start + int(filled_rows[0]) / FINE,
        columns.start + (int(filled_columns[-1]) + 1) / FINE,
        rows.start + (int(filled_rows[-1]) + 1) / FINE,
    )
    return box, int(fine.sum()) / FINE**2, pixels


def area_of(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a: Box, b: Box) -> float:
    return area_of((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a: Box, b: Box) -> float:
    shared = intersection(a, b)
    return shared / (area_of(a) + area_of(b) - shared)


def log_uniform(low: int, high: int, rng: np.random.Generator, skew: float = 1.0) -> int:
    """Even over the logarithm; a skew below 1 favours large values."""
    return min(high, round(low * math.exp(rng.random() ** skew * math.log(high / low))))


class Scene:
    """A picture in the making, and what it shows so far."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.width, self.height = IMAGE_SIZES[(0, 0, 0, 0, 1, 1, 1, 1, 2)[rng.integers(9)]]
        self.pixels = draw_background(self.width, self.height, rng)  # (height, width, 3) int32
        self.annotations: list[Annotation] = []
        self.visible: list[tuple[np.ndarray, int]] = []  # an object: its pixels not hidden, and how many must stay so

    def add_distractor(self) -> None:
        sprite = draw_sprite(DISTRACTORS[self.rng.integers(len(DISTRACTORS))], log_uniform(12, 120, self.rng), self.rng)
        height, width = sprite.cover.shape
        x, y = self.rng.integers(0, self.width) - width // 2, self.rng.integers(0, self.height) - height // 2
        label = int(self.rng.integers(len(CLASSES))) if self.rng.random() < 0.4 else None
        paint(self.pixels, sprite, int(x), int(y), self.rng, label)

    def add_crowd(self) -> None:
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
            box, _, mask = extent(sprite, x, y, self.width, self.height)
            boxes.append(box)
            covered |= mask
            paint(self.pixels, sprite, x, y, rng, label)
        lows, highs = zip(*((box[:2], box[2:]) for box in boxes), strict=True)
        box = (*map(min, zip(*lows, strict=True)), *map(max, zip(*highs, strict=True)))
        self.annotations.append(Annotation(label, box, float(covered.sum()), is_crowd=True))

    def add_object(self) -> None:
        """Place one object where every rule on visibility and overlap holds; leave it out if no such place turns up."""
        rng, label = self.rng, int(self.rng.integers(len(CLASSES)))
        size = log_uniform(MIN_SIZE, MAX_SIZE, rng, skew=0.6)
        sprite = draw_sprite(CLASSES[label], size, rng)
        height, width = sprite.cover.shape
        # Only boxes of similar size can overlap by much.
        partners = [a.box for a in self.annotations if not a.is_crowd and 0.4 < longer_side(a.box) / size < 2.5]
        partner = partners[rng.integers(len(partners))] if partners and rng.random() < 0.15 else None
        whole_box, _, _ = extent(sprite, 0, 0, width, height)
        cut_x, cut_y = (width // 2, height // 2) if rng.random() < 0.25 else (0, 0)
        for _ in range(40):
            if partner is None:
                x = int(rng.integers(-cut_x, self.width - width + cut_x + 1))
                y = int(rng.integers(-cut_y, self.height - height + cut_y + 1))
            else:
                x = int(rng.integers(int(partner[0]) - width, int(partner[2]) + 1))
                y = int(rng.integers(int(partner[1]) - height, int(partner[3]) + 1))
            box, area, mask = extent(sprite, x, y, self.width, self.height)
            is_inside = longer_side(box) >= MIN_SIZE and area_of(box) >= MIN_INSIDE * area_of(whole_box)
            is_due = partner is None or OVERLAP_IOU[0] <= iou(box, partner) <= OVERLAP_IOU[1]
            if is_inside and is_due and self.allows(sprite, box, mask):
                paint(self.pixels, sprite, x, y, rng, label)
                self.visible = [(seen & ~mask, least) for seen, least in self.visible]
                self.visible.append((mask, sprite.needed_pixels))
                self.annotations.append(Annotation(label, box, area, is_crowd=False))
                return

    def allows(self, sprite: Sprite, box: Box, mask: np.ndarray) -> bool:
        """Whether an object here leaves itself, earlier objects and crowds visible, and every two boxes apart."""
        for other in self.annotations:
            if other.is_crowd:
                if intersection(box, other.box) > MAX_CROWD_COVER * min(area_of(box), area_of(other.box)):
                    return False
            elif iou(box, other.box) > MAX_IOU:
                return False
        stays = [(mask, sprite.needed_pixels), *((seen & ~mask, least) for seen, least in self.visible)]
        return all(np.count_nonzero(seen) >= least for seen, least in stays)

    def finish(self) -> np.ndarray:
        """Vary contrast and brightness, add noise: (height, width, 3) uint8."""
        contrast, brightness, strength = (int(self.rng.integers(*span)) for span in ((40, 76), (-30, 31), (1, 7)))
        noise = self.rng.integers(-strength, strength + 1, (3, self.height, self.width), dtype=np.int8)
        pixels = ((self.pixels - 128) * contrast >> 6) + (128 + brightness) + noise.transpose(1, 2, 0)
        return pixels.clip(0, 255).astype(np.uint8, order="C")


def longer_side(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def draw_image(seed: int, split: str, index: int) -> tuple[np.ndarray, list[Annotation]]:
    """(height, width, 3) uint8 and what is labelled in it; both depend on the arguments alone."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scene = Scene(rng)
    for _ in range(rng.integers(1, 5)):
        scene.add_distractor()
    if rng.random() >= 0.06:
        if rng.random() < 0.21:
            scene.add_crowd()
        for _ in range(rng.integers(3, 12)):
            scene.add_object()
    return scene.finish(), scene.annotations


def write_split(folder: Path, split: str, num_images: int, seed: int, progress: bool) -> None:
    (folder / split).mkdir()
    images, annotations = [], []
    for index in tqdm(range(num_images), desc=f"drawing {split}", unit="image", disable=not progress):
        pixels, things = draw_image(seed, split, index)
        name = f"{index + 1:06d}.png"
        # Noise holds no repeats to look for: Huffman coding alone is both faster and smaller.
        Image.fromarray(pixels).save(folder / split / name, compress_level=1, compress_type=HUFFMAN_ONLY)
        height, width = pixels.shape[:2]
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for label, (x1, y1, x2, y2), area, is_crowd in things:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    document = {
        "info": {"description": f"shapes, drawing {DRAWING_VERSION}, seed {seed}, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)],
    }
    (folder / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


def already_written(folder: Path, marker: dict[str, int]) -> bool:
    """Whether `folder` holds the set that `marker` describes; anything else in it is an InputError."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    advice = "name another folder, or remove this one yourself if nothing in it is needed"
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder} exists and is not a shapes data set (no readable {MARKER}); {advice}") from None
    if found != marker:
        raise InputError(f"{folder} holds another shapes data set, {found}, expected {marker}; {advice}")
    for split in SPLITS:
        num_images = len(list((folder / split).glob("*.png")))
        if num_images != marker[f"num_{split}"] or not (folder / f"{split}.json").is_file():
            raise InputError(
                f"{folder} is damaged: {num_images} pictures in {split}/, expected {marker[f'num_{split}']} "
                f"and {split}.json beside it; remove the folder and run this again"
            )
    return True


def write_shapes(
    folder: Path, *, num_train: int = 640, num_val: int = 160, seed: int = 0, progress: bool = True
) -> None:
    """Write the data set to `folder`, all of it or nothing; a folder that already holds this very set is kept."""
    if num_train < 1 or num_val < 1 or seed < 0:
        raise InputError(
            f"num_train is {num_train}, num_val {num_val}, seed {seed}; expected an image or more a split, seed >= 0"
        )
    folder = Path(folder).resolve()
    marker = {"drawing_version": DRAWING_VERSION, "num_train": num_train, "num_val": num_val, "seed": seed}
    if already_written(folder, marker):
        print(f"{folder} already holds this data set")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.unfinished")
    unfinished.mkdir()
    try:
        write_split(unfinished, "train", num_train, seed, progress)
        write_split(unfinished, "val", num_val, seed, progress)
        (unfinished / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        try:
            os.replace(unfinished, folder)
        except OSError:
            # Another process may have put the same set there in the meantime.
            if not already_written(folder, marker):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m retinanet.data.shapes",
        description="Draw the embedded data set: shapes on textured backgrounds, in COCO form.",
        epilog=f"Classes: {', '.join(CLASSES)}. Writes FOLDER/train/*.png, FOLDER/val/*.png, FOLDER/train.json and "
        "FOLDER/val.json. The same arguments give the same pictures; a folder that already holds them is kept, "
        "one that holds anything else is never touched.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write; made if missing")
    parser.add_argument("--train", type=int, default=640, metavar="N", help="number of training images")
    parser.add_argument("--val", type=int, default=160, metavar="N", help="number of validation images")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed draws other pictures")
    args = parser.parse_args(argv)
    try:
        write_shapes(args.folder, num_train=args.train, num_val=args.val, seed=args.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
