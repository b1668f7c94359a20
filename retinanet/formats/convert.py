"""Write a dataset in another annotation format; imports no torch."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from retinanet.config import DataSource
from retinanet.errors import InputError, make_folder
from retinanet.formats.coco_writer import write_coco
from retinanet.formats.csv_table import write_csv
from retinanet.formats.dataset import Dataset
from retinanet.formats.labelme import write_labelme
from retinanet.formats.open_images import write_open_images
from retinanet.formats.voc_writer import write_voc
from retinanet.formats.writing import Losses, image_names
from retinanet.formats.yolo_writer import write_yolo

Target = Literal["coco", "yolo", "voc", "csv", "labelme", "open_images"]
TARGETS: tuple[Target, ...] = get_args(Target)
IMAGES = ("copy", "link", "none")  # what to do with image files


def write_annotations(dataset: Dataset, folder: Path, *, to: Target, split: str) -> Losses:
    """Write one split of a dataset.

    Returns:
        What the format cannot express, with counts.

    Raises:
        InputError: a file exists or cannot be written, or two images would share one.
    """
    match to:
        case "coco":
            return write_coco(dataset, folder, split=split)
        case "yolo":
            return write_yolo(dataset, folder, split=split)
        case "voc":
            return write_voc(dataset, folder, split=split)
        case "csv":
            return write_csv(dataset, folder, split=split)
        case "labelme":
            return write_labelme(dataset, folder, split=split)
        case "open_images":
            return write_open_images(dataset, folder, split=split)


def image_folder(folder: Path, *, to: Target, split: str) -> Path:
    """Where the images of a split belong in a dataset folder."""
    match to:
        case "yolo":
            return folder / "images" / split
        case "voc":
            return folder / "JPEGImages"
        case _:
            return folder / split


class Placement(NamedTuple):
    """An image file, and its place in the new dataset."""

    source: str
    target: Path


def placements(dataset: Dataset, images: Path) -> list[Placement]:
    """The place of each image file of a split, once if it is listed several times.

    Args:
        images: the folder of the images in the new dataset.
    """
    by_name = dict(zip(image_names(dataset), dataset.paths, strict=True))
    return [Placement(path, images / name) for name, path in by_name.items()]


def place_image(placement: Placement, *, link: bool) -> None:
    """Copy an image file to its place, or create a symbolic link there.

    Raises:
        InputError: the place is taken, or cannot be written.
    """
    source, target = placement
    if os.path.lexists(target):
        raise InputError(f"{source}: another image of the dataset is also named {target.name}; rename one of them")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(os.path.abspath(source))
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        advice = "use --images copy" if link else "free disk space, or use --images link"
        raise InputError(f"{target}: cannot be written: {error.strerror}; {advice}") from None


def remove_links(placed: list[Placement]) -> None:
    """Remove linked images, and the folders that are then empty."""
    for _, target in placed:
        target.unlink()
    for folder in sorted({target.parent for _, target in placed}, reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def new_folder(output: Path, sources: tuple[DataSource, ...]) -> Iterator[Path]:
    """Create a folder whose content appears in `output` when the block ends, and is deleted if it raises an error.

    Args:
        sources: what is converted; nothing is written into its folders.

    Raises:
        InputError: `output` exists and is not an empty folder, is inside a source, or cannot be written.
    """
    inside = output.resolve()
    for place in (place for source in sources for place in (source.annotations, source.images) if place is not None):
        if os.path.isdir(place) and inside.is_relative_to(Path(place).resolve()):
            raise InputError(f"{output}: is inside {place}, which is not modified; choose another --output")
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output}: exists and is not an empty folder; choose another --output")
    make_folder(inside.parent)
    partial = inside.with_name(f".{inside.name}.{os.getpid()}.partial")
    make_folder(partial)
    try:
        yield partial
        if output.is_dir():
            inside.rmdir()
        partial.rename(inside)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
