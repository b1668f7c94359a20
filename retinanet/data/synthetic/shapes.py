"""The embedded data set: six kinds of shapes on textured backgrounds, drawn by code and written in COCO form.

Every image depends on (seed, split, index) alone, so a smaller set is the beginning of a larger one. Integer
arithmetic wherever a last bit could show keeps pixels the same from machine to machine, given NumPy and Pillow.

A box is tight around what the image border leaves of a shape; another shape lying over it does not shrink it.
A crowd is one annotation around a dense cluster whose members have none of their own.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from retinanet.data.synthetic.sprites import (
    CLASSES,
    DISTRACTORS,
    Box,
    Sprite,
    draw_background,
    draw_sprite,
    extent,
    paint,
)
from retinanet.errors import InputError

CATEGORY_IDS = (1, 2, 3, 5, 8, 13)  # with gaps, as COCO's own are
SPLITS = ("train", "val")
IMAGE_SIZES = ((320, 256), (256, 320), (256, 256))  # (width, height), pixels
DRAWING_VERSION = 1  # raise it with every change that moves a pixel or a box
MARKER = "shapes.json"
WORTH_A_POOL = 200  # images; fewer are drawn before worker processes have started
HUFFMAN_ONLY = 2  # zlib's Z_HUFFMAN_ONLY

MIN_SIZE, MAX_SIZE = 10, 200  # longer side of a box, pixels
MIN_VISIBLE = 0.7  # share of a labelled shape that neither the border nor another shape may hide
MIN_INSIDE = 0.5  # share of its box inside the image
MAX_IOU = 0.55  # two boxes closer than this could not both survive NMS
OVERLAP_IOU = (0.08, 0.45)  # of a pair that is placed one over the other on purpose
MAX_CHANCE_COVER = 0.15  # share of the smaller box that another may cover where no overlap is wanted
MAX_CROWD_COVER = 0.1


class Annotation(NamedTuple):
    """One labelled thing of one image."""

    label: int  # index into CLASSES
    box: Box
    area: float  # pixels of the shape inside the image
    is_crowd: bool


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
    """An image in the making, and what it shows so far."""

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
        label = int(self.rng.integers(len(CLASSES))) if self.rng.random() < 0.3 else None
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
        size = log_uniform(MIN_SIZE, MAX_SIZE, rng, skew=0.5)
        sprite = draw_sprite(CLASSES[label], size, rng)
        height, width = sprite.cover.shape
        # Only boxes of similar size can overlap by much.
        partners = [a.box for a in self.annotations if not a.is_crowd and 0.4 < longer_side(a.box) / size < 2.5]
        partner = partners[rng.integers(len(partners))] if partners and rng.random() < 0.2 else None
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
            if partner is None:
                is_due = all(apart(box, other.box) for other in self.annotations)
            else:
                is_due = OVERLAP_IOU[0] <= iou(box, partner) <= OVERLAP_IOU[1]
            if is_inside and is_due and self.allows(sprite, box, mask):
                paint(self.pixels, sprite, x, y, rng, label)
                self.visible = [(seen & ~mask, least) for seen, least in self.visible]
                self.visible.append((mask, needed_pixels(sprite)))
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
        stays = [(mask, needed_pixels(sprite)), *((seen & ~mask, least) for seen, least in self.visible)]
        return all(np.count_nonzero(seen) >= least for seen, least in stays)

    def finish(self) -> np.ndarray:
        """Vary contrast and brightness, add noise: (height, width, 3) uint8."""
        contrast, brightness, strength = (int(self.rng.integers(*span)) for span in ((40, 76), (-30, 31), (1, 7)))
        noise = self.rng.integers(-strength, strength + 1, (3, self.height, self.width), dtype=np.int8)
        pixels = ((self.pixels - 128) * contrast >> 6) + (128 + brightness) + noise.transpose(1, 2, 0)
        return pixels.clip(0, 255).astype(np.uint8, order="C")


def apart(a: Box, b: Box) -> bool:
    return intersection(a, b) <= MAX_CHANCE_COVER * min(area_of(a), area_of(b))


def needed_pixels(sprite: Sprite) -> int:
    """A labelled shape shows at least this many."""
    return math.ceil(MIN_VISIBLE * np.count_nonzero(sprite.cover >= 128))


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
        for _ in range(rng.integers(2, 9)):
            scene.add_object()
    return scene.finish(), scene.annotations


def write_image(folder: Path, seed: int, split: str, index: int) -> tuple[int, int, list[Annotation]]:
    """Draw one image into its folder: its height, its width and what is labelled in it."""
    pixels, things = draw_image(seed, split, index)
    # Noise holds no repeats to look for: Huffman coding alone is both faster and smaller.
    Image.fromarray(pixels).save(folder / split / file_name(index), compress_level=1, compress_type=HUFFMAN_ONLY)
    return *pixels.shape[:2], things


def file_name(index: int) -> str:
    return f"{index + 1:06d}.png"


def write_split(folder: Path, split: str, num_images: int, seed: int, progress: bool) -> None:
    (folder / split).mkdir()
    images, annotations = [], []
    write = functools.partial(write_image, folder, seed, split)
    with contextlib.ExitStack() as stack:
        drawn: Iterator[tuple[int, int, list[Annotation]]] = map(write, range(num_images))
        if num_images >= WORTH_A_POOL:
            pool = stack.enter_context(ProcessPoolExecutor(min(os.cpu_count() or 1, 8)))
            drawn = pool.map(write, range(num_images), chunksize=8)
        bar = tqdm(drawn, desc=f"drawing {split}", unit="image", total=num_images, disable=not progress)
        for index, (height, width, things) in enumerate(bar):
            name = file_name(index)
            images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
            add_annotations(annotations, index + 1, things)
    document = {
        "info": {"description": f"shapes, drawing {DRAWING_VERSION}, seed {seed}, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)],
    }
    (folder / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


def add_annotations(annotations: list[dict], image_id: int, things: list[Annotation]) -> None:
    for label, (x1, y1, x2, y2), area, is_crowd in things:
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": CATEGORY_IDS[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": int(is_crowd),
            }
        )


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
                f"{folder} is damaged: {num_images} images in {split}/, expected {marker[f'num_{split}']} "
                f"and {split}.json beside it; remove the folder and run this again"
            )
    return True


def write_shapes(
    folder: Path, *, num_train: int = 1600, num_val: int = 160, seed: int = 0, progress: bool = True
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
        prog="python -m retinanet.data.synthetic.shapes",
        description="Draw the embedded data set: shapes on textured backgrounds, in COCO form.",
        epilog=f"Classes: {', '.join(CLASSES)}. Writes FOLDER/train/*.png, FOLDER/val/*.png, FOLDER/train.json and "
        "FOLDER/val.json. The same arguments give the same images; a folder that already holds them is kept, "
        "one that holds anything else is never touched.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write; made if missing")
    parser.add_argument("--train", type=int, default=1600, metavar="N", help="number of training images")
    parser.add_argument("--val", type=int, default=160, metavar="N", help="number of validation images")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed draws other images")
    args = parser.parse_args(argv)
    try:
        write_shapes(args.folder, num_train=args.train, num_val=args.val, seed=args.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
