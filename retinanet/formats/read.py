"""Read annotation sources of any format into one `Dataset`: choose classes, find images, check boxes."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from retinanet.config import DataSource, MergedClass
from retinanet.errors import InputError
from retinanet.formats.annotations import RELATIVE_DIGITS, Annotations
from retinanet.formats.checks.boxes import BoxProblems, check_boxes
from retinanet.formats.checks.categories import check_categories
from retinanet.formats.checks.plausibility import check_coordinates, check_repeated_images
from retinanet.formats.classes import Categories, Classes, choose_classes
from retinanet.formats.coco.lvis import read_lvis
from retinanet.formats.coco.reader import read_coco
from retinanet.formats.csv.reader import read_csv
from retinanet.formats.dataset import Dataset, concatenate, start_of_each
from retinanet.formats.detect import resolve
from retinanet.formats.findings import Finding, report
from retinanet.formats.image_paths.band_files import find_band_files
from retinanet.formats.image_paths.find import find_images
from retinanet.formats.image_paths.folder import find_image_folder
from retinanet.formats.images.reader import read_header
from retinanet.formats.labelme.reader import read_labelme
from retinanet.formats.open_images.reader import read_open_images
from retinanet.formats.sources import check_sources
from retinanet.formats.voc.reader import read_voc
from retinanet.formats.yolo.reader import read_yolo

log = logging.getLogger(__name__)


class NoUsableImages(InputError):
    """No usable image is left; the findings give the reasons."""


def read_dataset(
    sources: tuple[DataSource, ...],
    *,
    classes: tuple[str | MergedClass, ...] | None = None,
    expected_names: tuple[str, ...] | None = None,
    keep_empty: bool = True,
    strict: bool = False,
    max_pixels: int = 100_000_000,
    skip_missing_images: bool = False,
    allow_outside_paths: bool = False,
    band_files: tuple[str, ...] | None = None,
    key: str = "data",
    findings: list[Finding] | None = None,
) -> Dataset:
    """Read and check annotation sources.

    Args:
        sources: one or more files or folders. Several are joined, and their images are renumbered from 1.
        classes: categories to select, order or merge, by name. None: all of the first source, in its order.
        expected_names: required class names, from the training set or a checkpoint; sources may lack some of them.
        keep_empty: whether to keep images that have no usable boxes.
        strict: raise on boxes with problems instead of dropping or clipping them.
        max_pixels: size limit for images whose dimensions must be read from the image file.
        skip_missing_images: skip images that do not exist, with a warning, instead of raising.
        allow_outside_paths: use images whose names point outside the image folder.
        band_files: patterns of the files of each image, which must exist; None: one file.
        key: the config key of these sources, for messages.
        findings: a list to add findings to, errors included. None: log them, or raise if there are errors.

    Raises:
        InputError: a missing or malformed file, an unknown class, or a missing image; the message says how to fix it.
            With `findings`, only if the sources cannot be read at all.
    """
    if not sources:
        raise InputError(f"{key}: not set; set {key}=PATH to an annotation file or a dataset folder")
    check_sources(sources, key=key)
    read = [read_annotations(source, "val" if key == "data.val" else "train") for source in sources]
    chosen = choose_classes(
        [Categories(part.source, part.category_names) for part in read],
        classes=classes,
        expected_names=expected_names,
        key=key,
    )
    if not chosen.names:
        raise InputError(f"{key}: no objects in {read[0].source}, so there are no classes to learn")
    names = ", ".join(part.source for part in read)
    if len({part.federated is None for part in read}) > 1:
        raise InputError(f"{key}: {names}: LVIS annotations cannot be mixed with complete ones; use only one kind")
    found = [] if findings is None else findings
    found += [finding for part in read for finding in part.findings]
    found += chosen.findings
    if expected_names is None:
        found += check_categories(read, None if classes is None else chosen.label_of, where=names)
    category_ids = _category_ids(chosen, read)
    problems = BoxProblems(strict=strict)
    parts = []
    for part in read:
        assert part.image_folder is not None  # see read_annotations
        path_or_none, noticed = find_images(
            part.image_folder,
            part.file_names,
            source=part.source,
            key=key,
            skip_missing=skip_missing_images,
            allow_outside=allow_outside_paths,
        )
        found += noticed
        if band_files is not None:
            path_or_none, noticed = find_band_files(
                path_or_none, band_files, source=part.source, key=key, skip_missing=skip_missing_images
            )
            found += noticed
        paths = [path for path in path_or_none if path is not None]
        if len(paths) < len(part):
            part = part.subset([index for index, path in enumerate(path_or_none) if path is not None])
        sizes = _with_sizes_of_files(part.sizes, paths, max_pixels)
        found += check_coordinates(part, sizes)
        parts.append(_to_dataset(part, paths, sizes, chosen, category_ids, problems))
    found += problems.findings(names)
    found += check_repeated_images([path for part in parts for path in part.paths], where=names)
    if not keep_empty:
        parts, skipped = _without_empty_images(parts, names)
        found += skipped
    if findings is None:
        report(found)
    dataset = parts[0] if len(parts) == 1 else concatenate(parts)
    if not len(dataset):
        raise NoUsableImages(f"{key}: no usable images in {read[0].source}; see the warnings above")
    return dataset


def read_annotations(source: DataSource, part: str) -> Annotations:
    """Read one source, detect its format if none is given, and find its image folder.

    Args:
        part: "train" or "val", the config section of the source.

    Raises:
        InputError: the source is missing or malformed, or its format is ambiguous.
    """
    try:
        resolved, description = resolve(source, part)
        read = _read(resolved, part)
    except OSError as error:  # for example, no permission
        raise InputError(f"{error.filename or source.annotations}: cannot be read: {error.strerror}") from None
    log.info("%s: %s, %d image%s", source.annotations, description, len(read), "" if len(read) == 1 else "s")
    if read.image_folder is None:
        folder = find_image_folder(read.source, read.file_names, split=resolved.split, part=part)
        return replace(read, image_folder=folder)
    return read


def _read(source: DataSource, part: str) -> Annotations:
    match source.format:
        case "coco":
            return read_coco(source)
        case "lvis":
            return read_lvis(source)
        case "yolo":
            return read_yolo(source, part)
        case "voc":
            return read_voc(source, part)
        case "csv":
            return read_csv(source)
        case "labelme":
            return read_labelme(source)
        case "open_images":
            return read_open_images(source, part)
    raise AssertionError(source.format)


def _to_dataset(
    read: Annotations,
    paths: Sequence[str],
    sizes: np.ndarray,
    chosen: Classes,
    category_ids: tuple[int, ...],
    problems: BoxProblems,
) -> Dataset:
    """Select the chosen classes of one source, and drop or clip boxes with problems; image ids are kept."""
    label_of = np.array([chosen.label_of.get(name, -1) for name in read.category_names], dtype=np.int64)
    labels = label_of[read.category_index]
    rows = np.flatnonzero(labels >= 0)
    rows = rows[np.argsort(read.image_index[rows], kind="stable")]  # stable: keeps the source's order within an image
    image_index, boxes_xywh = read.image_index[rows], read.boxes_xywh[rows]
    if read.is_relative:
        # Rounding restores whole pixels exactly.
        boxes_xywh = np.round(boxes_xywh * np.tile(sizes[image_index][:, ::-1], 2), RELATIVE_DIGITS)

    checked = check_boxes(boxes_xywh, sizes[image_index])
    problems.add(checked, read, rows=rows, boxes_xywh=boxes_xywh, sizes=sizes[image_index])
    usable = checked.is_usable
    federated = None
    if read.federated is not None:
        annotated = np.stack([read.image_index, read.category_index], axis=1)
        federated = read.federated.relabel(label_of, annotated)
    return Dataset(
        paths=tuple(paths),
        image_ids=tuple(range(1, len(paths) + 1)) if read.image_ids is None else tuple(read.image_ids),
        sizes=sizes,
        box_start=start_of_each(np.bincount(image_index[usable], minlength=len(paths))),
        boxes_xywh=checked.boxes_xywh[usable],
        areas=checked.areas(read.areas[rows])[usable],
        labels=labels[rows][usable],
        is_crowd=read.is_crowd[rows][usable],
        class_names=chosen.names,
        category_ids=category_ids,
        federated=federated,
    )


def _with_sizes_of_files(sizes: np.ndarray, paths: Sequence[str], max_pixels: int) -> np.ndarray:
    """Fill in sizes (I, 2) that the source does not state, from the image files."""
    filled = sizes.copy()
    for index in np.flatnonzero((sizes <= 0).any(axis=1)).tolist():
        header = read_header(paths[index], max_pixels=max_pixels)
        filled[index] = header.height, header.width
    return filled


def _category_ids(classes: Classes, read: Sequence[Annotations]) -> tuple[int, ...]:
    """Return category ids for results: those of the source if it has any and no categories are merged, otherwise 1..K.

    Classes that are missing from the source get ids above its largest one.
    """
    ids = read[0].category_ids
    if len(read) == 1 and ids is not None and len(classes.label_of) == len(classes.names):
        by_name = dict(zip(read[0].category_names, ids, strict=True))
        unused = itertools.count(1 + max(by_name.values()))
        return tuple(by_name[name] if name in by_name else next(unused) for name in classes.label_of)  # by label
    return tuple(range(1, len(classes.names) + 1))


def _without_empty_images(parts: list[Dataset], names: str) -> tuple[list[Dataset], list[Finding]]:
    has_boxes = [np.diff(part.box_start) > 0 for part in parts]
    num_empty = sum(int((~kept).sum()) for kept in has_boxes)
    message = f"{num_empty} image(s) without boxes skipped (data.keep_empty: false)"
    findings = [Finding("warning", "empty_images_skipped", names, message)] if num_empty else []
    return [part.subset(np.flatnonzero(kept)) for part, kept in zip(parts, has_boxes, strict=True)], findings
