"""Write the bundled shapes dataset, six kinds of shapes on textured backgrounds, as images and COCO annotations.

Every image depends only on (seed, split, index), so smaller datasets are prefixes of larger ones. Integer arithmetic
is used wherever rounding could change a pixel, so pixels are the same on every machine.
"""

import contextlib
import functools
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from retinanet.data.synthetic.png import write_png
from retinanet.data.synthetic.scene import SPLITS, Annotation, draw_image
from retinanet.data.synthetic.sprites import CLASSES
from retinanet.errors import InputError
from retinanet.runtime import console

CATEGORY_IDS = (1, 2, 3, 5, 8, 13)  # with gaps, like COCO's
DRAWING_VERSION = 1  # increase with every change to a pixel or a box
MARKER = "shapes.json"
MIN_IMAGES_FOR_POOL = 200  # fewer images are drawn faster than worker processes start


def write_image(folder: Path, seed: int, split: str, index: int) -> tuple[int, int, list[Annotation]]:
    """Draw and save one image; return its height, width and annotations."""
    pixels, annotations = draw_image(seed, split, index)
    write_png(folder / split / file_name(index), pixels)
    return *pixels.shape[:2], annotations


def file_name(index: int) -> str:
    """File name of the image at `index`."""
    return f"{index + 1:06d}.png"


def write_split(folder: Path, split: str, num_images: int, seed: int, progress: bool) -> None:
    """Draw the images of one split and write its annotation file."""
    (folder / split).mkdir()
    images, annotations = [], []
    write = functools.partial(write_image, folder, seed, split)
    with contextlib.ExitStack() as stack:
        drawn: Iterator[tuple[int, int, list[Annotation]]] = map(write, range(num_images))
        if num_images >= MIN_IMAGES_FOR_POOL:
            pool = stack.enter_context(ProcessPoolExecutor(min(os.cpu_count() or 1, 8)))
            drawn = pool.map(write, range(num_images), chunksize=8)
        bar = console.progress(drawn, f"drawing {split}", num_images, silent=not progress)
        for index, (height, width, drawn_annotations) in enumerate(bar):
            name = file_name(index)
            images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
            add_annotations(annotations, index + 1, drawn_annotations)
    document = {
        "info": {"description": f"shapes, drawing {DRAWING_VERSION}, seed {seed}, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)],
    }
    (folder / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


def add_annotations(annotations: list[dict], image_id: int, of_image: list[Annotation]) -> None:
    """Append the annotations of one image in COCO format."""
    for label, (x1, y1, x2, y2), area, is_crowd in of_image:
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
    """Return whether `folder` already contains the dataset described by `marker`.

    Raises:
        InputError: `folder` contains anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    advice = "choose another folder, or delete this one"
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder} exists and is not a shapes dataset (no readable {MARKER}); {advice}") from None
    if found != marker:
        raise InputError(f"{folder} contains another shapes dataset, {found}, expected {marker}; {advice}")
    for split in SPLITS:
        num_images = len(list((folder / split).glob("*.png")))
        if num_images != marker[f"num_{split}"] or not (folder / f"{split}.json").is_file():
            raise InputError(
                f"{folder} is damaged: {num_images} images in {split}/, expected {marker[f'num_{split}']} "
                f"and {split}.json; delete the folder and run this again"
            )
    return True


def write_shapes(
    folder: Path, *, num_train: int = 1600, num_val: int = 160, seed: int = 0, progress: bool = True
) -> bool:
    """Write the dataset to `folder`, completely or not at all.

    Returns:
        True if the dataset was written, False if the folder already contains exactly this dataset.

    Raises:
        InputError: the folder contains anything else, or an argument is out of range.
    """
    if num_train < 1 or num_val < 1 or seed < 0:
        raise InputError(
            f"num_train is {num_train}, num_val {num_val}, seed {seed}; expected at least one image per split and "
            "seed >= 0"
        )
    folder = Path(folder).resolve()
    marker = {"drawing_version": DRAWING_VERSION, "num_train": num_train, "num_val": num_val, "seed": seed}
    if already_written(folder, marker):
        return False
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
            # Another process may have written the same dataset in the meantime.
            if not already_written(folder, marker):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True
