"""Write a dataset in another annotation format, without importing torch."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from retinanet.config import DataSource
from retinanet.errors import InputError, make_folder
from retinanet.formats.coco.writer import write_coco
from retinanet.formats.csv.writer import write_csv
from retinanet.formats.dataset import Dataset
from retinanet.formats.labelme.writer import write_labelme
from retinanet.formats.open_images.writer import write_open_images
from retinanet.formats.voc.writer import write_voc
from retinanet.formats.writing import Losses, image_names
from retinanet.formats.yolo.writer import write_yolo

Target = Literal["coco", "yolo", "voc", "csv", "labelme", "open_images"]
TARGETS: tuple[Target, ...] = get_args(Target)
IMAGES = ("copy", "link", "none")  # what to do with image files


def write_annotations(
    dataset: Dataset, folder: Path, *, to: Target, split: str, has_own_folder: bool = False
) -> Losses:
    """Write one split of a dataset.

    Args:
        has_own_folder: see `share_names`.

    Returns:
        Counts of the information that the format cannot express.

    Raises:
        InputError: a file exists or cannot be written, or two images would share a file.
    """
    losses = _write(dataset, folder, to=to, split=split, has_own_folder=has_own_folder)
    if dataset.federated is not None:
        losses |= {"lists of the classes verified in each image are not written": len(dataset)}
    return losses


def _write(dataset: Dataset, folder: Path, *, to: Target, split: str, has_own_folder: bool) -> Losses:
    match to:
        case "coco":
            return write_coco(dataset, folder, split=split)
        case "yolo":
            return write_yolo(dataset, folder, split=split)
        case "voc":
            return write_voc(dataset, folder, split=split, subfolder=split if has_own_folder else "")
        case "csv":
            return write_csv(dataset, folder, split=split)
        case "labelme":
            return write_labelme(dataset, folder, split=split)
        case "open_images":
            return write_open_images(dataset, folder, split=split)


def share_names(datasets: Iterable[Dataset]) -> bool:
    """Return whether images of different splits have the same name.

    If so, each split gets its own subfolder in formats with one image folder for all splits.
    """
    stems = [{os.path.splitext(name)[0] for name in image_names(dataset)} for dataset in datasets]
    return len(set().union(*stems)) < sum(map(len, stems))


def image_folder(folder: Path, *, to: Target, split: str, has_own_folder: bool = False) -> Path:
    """Return the folder for the images of a split."""
    match to:
        case "yolo":
            return folder / "images" / split
        case "voc":
            return folder / "JPEGImages" / (split if has_own_folder else "")
        case _:
            return folder / split


class Placement(NamedTuple):
    """An image file and its path in the new dataset."""

    source: str
    target: Path


def placements(dataset: Dataset, images: Path) -> list[Placement]:
    """Return the new path of each image file of a split; repeated files are returned once.

    Args:
        images: the image folder in the new dataset.
    """
    by_name = dict(zip(image_names(dataset), dataset.paths, strict=True))
    return [Placement(path, images / name) for name, path in by_name.items()]


def place_image(placement: Placement, *, link: bool) -> None:
    """Copy an image file to its new path, or create a symbolic link there.

    Raises:
        InputError: the path already exists or cannot be written.
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
    """Remove linked images and folders that become empty."""
    for _, target in placed:
        target.unlink()
    for folder in {target.parent for _, target in placed}:
        while folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def check_output(output: Path, sources: Iterable[DataSource]) -> None:
    """Check that a new dataset can be written to a folder.

    Raises:
        InputError: `output` exists and is not an empty folder, or is inside a source folder.
    """
    for place in (place for source in sources for place in (source.annotations, source.images) if place is not None):
        if os.path.isdir(place) and output.resolve().is_relative_to(Path(place).resolve()):
            raise InputError(f"{output}: is inside {place}, which must not be modified; choose another --output")
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output}: exists and is not an empty folder; choose another --output")


@contextmanager
def new_folder(output: Path, *, replace: bool = False) -> Iterator[Path]:
    """Create a temporary folder, renamed to `output` when the block ends and deleted if it raises an error.

    Args:
        replace: replace an existing folder with all it contains, which the caller has checked. It stays until the new
            folder is complete.

    Raises:
        InputError: `output` exists and is not an empty folder, or cannot be written.
    """
    if not replace:
        check_output(output, ())
    place = output.resolve()
    make_folder(place.parent)
    partial, old = (place.with_name(f".{place.name}.{os.getpid()}.{state}") for state in ("partial", "old"))
    make_folder(partial)
    try:
        yield partial
        try:
            if place.is_dir():
                place.rename(old)
            partial.rename(place)
        except OSError as error:
            raise InputError(f"{output}: cannot be written: {error.strerror}; choose another --output") from None
        finally:
            if old.is_dir() and not place.exists():
                old.rename(place)
    finally:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)
