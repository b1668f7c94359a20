"""COCO annotation and results formats: read annotation files into a `Dataset`, and convert detections to results."""

import itertools
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinanet.config import DataSource, MergedClass
from retinanet.errors import InputError
from retinanet.formats.box_check import BoxProblems, check_boxes
from retinanet.formats.classes import Categories, Classes, choose_classes
from retinanet.formats.coco_json import read_document
from retinanet.formats.dataset import Dataset, concatenate, start_of_each
from retinanet.formats.image import read_header
from retinanet.formats.sources import check_sources

if TYPE_CHECKING:
    from retinanet.structures import Detections

log = logging.getLogger(__name__)

MAX_LISTED = 5  # file names shown in a message


def read_coco(
    sources: tuple[DataSource, ...],
    *,
    classes: tuple[str | MergedClass, ...] | None = None,
    expected_names: tuple[str, ...] | None = None,
    keep_empty: bool = True,
    strict: bool = False,
    max_pixels: int = 100_000_000,
    key: str = "data",
) -> Dataset:
    """Read and check annotation files.

    Args:
        sources: one or more files. Several files are joined, and their images are renumbered from 1.
        classes: categories to select, order or merge, by name. None takes all of the first file's, ordered by id.
        expected_names: required class names, from the training set or a checkpoint; files may lack some of them.
        keep_empty: whether to keep images that have no usable boxes.
        strict: raise on boxes with problems instead of dropping or clipping them.
        max_pixels: size limit for images whose dimensions must be read from the image file.
        key: the config key of these sources, for messages.

    Raises:
        InputError: a missing or malformed file, an unknown class, or a missing image; the message says how to fix it.
    """
    if not sources:
        raise InputError(f"{key}: not set; set {key}.images=DIR {key}.annotations=FILE")
    check_sources(sources, key=key)
    documents = [read_document(source.annotations) for source in sources]
    chosen = choose_classes(
        [_categories(source.annotations, document) for source, document in zip(sources, documents, strict=True)],
        classes=classes,
        expected_names=expected_names,
        key=key,
    )
    category_ids = _category_ids(chosen, documents)
    problems = BoxProblems(strict=strict)
    parts = [
        _read_source(source, document, chosen, category_ids, problems, max_pixels=max_pixels, key=key)
        for source, document in zip(sources, documents, strict=True)
    ]
    names = ", ".join(source.annotations for source in sources)
    problems.report(names)
    if not keep_empty:
        parts = _without_empty_images(parts, names)
    dataset = parts[0] if len(parts) == 1 else concatenate(parts)
    if not len(dataset):
        raise InputError(f"{key}: no usable images in {sources[0].annotations}; see the warnings above")
    return dataset


def coco_results(
    detections: Iterable[tuple[int | str, "Detections"]], category_ids: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Convert detections to the COCO results format, ready to be written to a file.

    Args:
        detections: pairs of an image id and the detections on that image.
        category_ids: the category id of each label.

    Returns:
        One result per detection; its bbox is [x, y, width, height].
    """
    return [result for image_id, found in detections for result in found.to_coco(image_id, category_ids)]


def _read_source(
    source: DataSource,
    document: dict[str, Any],
    chosen: Classes,
    category_ids: tuple[int, ...],
    problems: BoxProblems,
    *,
    max_pixels: int,
    key: str,
) -> Dataset:
    """Read one annotation file, keeping its image ids."""
    paths = _find_images(source, document, key)
    sizes = [_size(image, path, max_pixels) for image, path in zip(document["images"], paths, strict=True)]
    sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)

    names = {category["id"]: category["name"] for category in document["categories"]}
    label_of = {number: chosen.label_of[name] for number, name in names.items() if name in chosen.label_of}
    annotations = [entry for entry in document["annotations"] if entry["category_id"] in label_of]
    index_of = {image["id"]: index for index, image in enumerate(document["images"])}
    annotations.sort(key=lambda entry: index_of[entry["image_id"]])  # stable: keeps the file's order within an image

    image_index = np.array([index_of[entry["image_id"]] for entry in annotations], dtype=np.int64)
    labels = np.array([label_of[entry["category_id"]] for entry in annotations], dtype=np.int64)
    is_crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in annotations], dtype=bool)
    boxes_xywh = np.array([entry["bbox"] for entry in annotations], dtype=np.float64).reshape(-1, 4)
    areas = np.array([entry.get("area") for entry in annotations], dtype=np.float64)  # None becomes NaN

    checked = check_boxes(boxes_xywh, sizes[image_index])
    problems.add(checked, annotations=annotations, sizes=sizes[image_index], file=source.annotations)
    usable = checked.is_usable
    return Dataset(
        paths=tuple(map(str, paths)),
        image_ids=tuple(image["id"] for image in document["images"]),
        sizes=sizes,
        box_start=start_of_each(np.bincount(image_index[usable], minlength=len(paths))),
        boxes_xywh=checked.boxes_xywh[usable],
        areas=checked.areas(areas)[usable],
        labels=labels[usable],
        is_crowd=is_crowd[usable],
        class_names=chosen.names,
        category_ids=category_ids,
    )


def _find_images(source: DataSource, document: dict[str, Any], key: str) -> list[Path]:
    folder = Path(source.images)
    paths = [_inside(folder, image["file_name"], source.annotations) for image in document["images"]]
    # os.path.isfile returns False if a name is too long; Path.is_file raises.
    missing = [
        image["file_name"] for image, path in zip(document["images"], paths, strict=True) if not os.path.isfile(path)
    ]
    if missing:
        raise InputError(
            f"{source.annotations}: {len(missing)} of {len(paths)} images are not in {folder}, "
            f"first {missing[:MAX_LISTED]}; correct {key}.images or the file names"
        )
    return paths


def _inside(folder: Path, name: str, file: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{file}: file_name {name!r} points outside {folder}; use paths inside it")
    return folder / name


def _size(image: dict[str, Any], path: Path, max_pixels: int) -> tuple[int, int]:
    if image.get("height") is not None and image.get("width") is not None:
        return image["height"], image["width"]
    header = read_header(path, max_pixels=max_pixels)
    return header.height, header.width


def _categories(file: str, document: dict[str, Any]) -> Categories:
    by_id = sorted(document["categories"], key=lambda category: category["id"])
    return Categories(file, tuple(category["name"] for category in by_id))


def _category_ids(classes: Classes, documents: list[dict[str, Any]]) -> tuple[int, ...]:
    """Category ids for results: the file's own if there is one file and no merged categories, otherwise 1..K.

    Classes that the file lacks get the ids after its largest.
    """
    if len(documents) == 1 and len(classes.label_of) == len(classes.names):
        by_name = {category["name"]: category["id"] for category in documents[0]["categories"]}
        unused = itertools.count(1 + max(by_name.values()))
        return tuple(by_name[name] if name in by_name else next(unused) for name in classes.label_of)  # by label
    return tuple(range(1, len(classes.names) + 1))


def _without_empty_images(parts: list[Dataset], names: str) -> list[Dataset]:
    has_boxes = [np.diff(part.box_start) > 0 for part in parts]
    num_empty = sum(int((~kept).sum()) for kept in has_boxes)
    if num_empty:
        log.warning("%s: %d image(s) without boxes skipped (data.keep_empty: false)", names, num_empty)
    return [part.subset(np.flatnonzero(kept)) for part, kept in zip(parts, has_boxes, strict=True)]
