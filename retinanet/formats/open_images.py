"""Open Images annotations: a CSV file of boxes per split, with coordinates in fractions of the image.

Rows with a confidence of 0 say that a class is absent: their image is read, without a box. Files of image-level labels
are not read, so images that have no row in the box file are not part of the dataset. Boxes around groups of objects
become crowd regions.
"""

import csv
import io
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.corners import to_corners, to_sides
from retinanet.formats.csv_columns import to_number
from retinanet.formats.dataset import Dataset
from retinanet.formats.faults import Faults
from retinanet.formats.image_folder import find_image_folder, image_files
from retinanet.formats.short_repr import short
from retinanet.formats.splits import SPLIT_NAMES
from retinanet.formats.table import Row, rows_of
from retinanet.formats.writing import (
    Losses,
    area_losses,
    category_id_losses,
    image_id_losses,
    image_names,
    occurring,
    replace_file,
    rows_of_files,
    write_new_files,
)

BOX_FILE = "{}-annotations-bbox.csv"
CLASS_FILE = "class-descriptions-boxable.csv"
HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
).split(",")
EDGES = ("XMin", "YMin", "XMax", "YMax")
REQUIRED = ("ImageID", "LabelName", *EDGES)
OUTSIDE_TOLERANCE = 0.1  # how far a box may exceed the image, as a fraction of it
DIGITS = 6  # of pixels, to which boxes in fractions are rounded when they are read
UNKNOWN = "-1"  # an attribute that nobody has checked


def read_open_images(source: DataSource, part: str) -> Annotations:
    """Read a file of boxes.

    Classes are those of `class-descriptions-boxable.csv` beside the file, in its order. Without it, they are the label
    names themselves, sorted.

    Args:
        part: "train" or "val", the part of the config that names the source.

    Raises:
        InputError: the file is missing or malformed; the message lists its faults by line.
    """
    file, split = source.annotations, source.split or _split_of(source.annotations)
    rows = rows_of(file, ",")
    header = next(rows, None)
    columns = {name: index for index, name in enumerate(header.fields)} if header else {}
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        found = short(header.fields) if header else "an empty file"
        raise InputError(
            f"{file}: line 1 lacks the columns {', '.join(missing)}; found {found}; expected {','.join(HEADER)}"
        )
    faults = Faults(file)
    content = _Content(columns, faults)
    for row in rows:
        content.add(row)
    classes = _read_classes(Path(file).parent)
    if classes is not None:
        for label, line in content.label_lines.items():
            if label not in classes:
                faults.add("LabelName that the class descriptions lack", f"line {line} ({short(label)})")
    faults.check()
    names = tuple(classes.values() if classes is not None else sorted(content.label_lines))
    if not content.label_lines:
        raise InputError(f"{file}: has no boxes; expected rows {','.join(HEADER)}")
    index_of = {label: index for index, label in enumerate(names if classes is None else classes)}
    category_of = np.array([index_of[label] for label in content.label_lines], dtype=np.int64)
    corners = np.array(content.corners, dtype=np.float64).reshape(-1, 4)
    image_ids = tuple(content.image_numbers)
    folder = source.images or find_image_folder(file, _likely_names(image_ids), split=split, part=part)
    return Annotations(
        source=file,
        image_folder=folder,
        file_names=_file_names(folder, image_ids),
        image_ids=None,
        sizes=np.zeros((len(image_ids), 2), dtype=np.int64),
        image_index=np.array(content.image_index, dtype=np.int64),
        boxes_xywh=to_sides(corners),
        areas=np.full(len(corners), np.nan),
        category_index=category_of[np.array(content.label_index, dtype=np.int64)],
        is_crowd=np.array(content.is_group, dtype=bool),
        entry="line",
        entry_numbers=np.array(content.lines, dtype=np.int64),
        category_names=names,
        category_ids=None,
        is_relative=True,
    )


def write_open_images(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `SPLIT-annotations-bbox.csv` and `class-descriptions-boxable.csv`, with class names as label names.

    Image files belong into the folder `SPLIT`.

    Returns:
        What the format cannot express, with counts.

    Raises:
        InputError: two images would have the same id, or a file exists or cannot be written.
    """
    names, rows_of = image_names(dataset), rows_of_files(image_names(dataset), dataset)
    sizes = np.repeat(np.tile(dataset.sizes[:, ::-1], 2), np.diff(dataset.box_start), axis=0)  # (M, 4)
    fractions = to_corners(dataset.boxes_xywh) / sizes
    table, classes = io.StringIO(), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HEADER)
    for stem, rows in rows_of.items():
        for row in rows.tolist():
            label, is_group = dataset.class_names[dataset.labels[row]], int(dataset.is_crowd[row])
            x1, y1, x2, y2 = map(repr, fractions[row].tolist())
            attributes = [UNKNOWN, UNKNOWN, is_group, UNKNOWN, UNKNOWN]
            writer.writerow([stem, "unknown", label, 1, x1, x2, y1, y2, *attributes])
    csv.writer(classes, lineterminator="\n").writerows(zip(dataset.class_names, dataset.class_names, strict=True))
    write_new_files({folder / BOX_FILE.format(split): table.getvalue()})
    replace_file(folder / CLASS_FILE, classes.getvalue())  # the same for all splits
    rounded = (np.round(to_sides(fractions) * sizes, DIGITS) != dataset.boxes_xywh).any(axis=1)
    return occurring(
        {
            "images without objects are not listed": int((np.diff(dataset.box_start) == 0).sum()),
            "images listed several times are joined": len(names) - len(rows_of),
            "image names lose their suffix, which other tools expect to be .jpg": sum(
                not name.endswith(".jpg") for name in names
            ),
            "boxes are rounded to a millionth of a pixel": int(rounded.sum()),
        }
        | image_id_losses(dataset)
        | category_id_losses(dataset)
        | area_losses(dataset)
    )


class _Content:
    """What the rows say, in compact arrays: the training set of Open Images has 14 million."""

    def __init__(self, columns: dict[str, int], faults: Faults):
        self._columns = columns
        self._width = 1 + max(columns[name] for name in REQUIRED)
        self._confidence = columns.get("Confidence")
        self._is_group = columns.get("IsGroupOf")
        self._faults = faults
        self._label_numbers: dict[str, int] = {}
        self.image_numbers: dict[str, int] = {}  # by image id, in order of appearance
        self.label_lines: dict[str, int] = {}  # first line of each label
        self.image_index, self.label_index, self.lines = array("q"), array("q"), array("q")
        self.is_group = array("b")
        self.corners = array("d")

    def add(self, row: Row) -> None:
        fields, columns, where = row.fields, self._columns, f"line {row.line}"
        if len(fields) < self._width:
            self._faults.add(f"row with fewer than {self._width} fields", f"{where} ({len(fields)})")
            return
        image, label = fields[columns["ImageID"]], fields[columns["LabelName"]]
        if not image or not label:
            self._faults.add("ImageID or LabelName is empty", where)
            return
        number = self.image_numbers.setdefault(image, len(self.image_numbers))
        if self._flag(fields, self._confidence) == 0:
            return  # somebody has verified that the class is absent
        corners = [to_number(fields[columns[name]]) for name in EDGES]
        for name, value in zip(EDGES, corners, strict=True):
            if value is None or not -OUTSIDE_TOLERANCE <= value <= 1 + OUTSIDE_TOLERANCE:
                found = short(fields[columns[name]])
                self._faults.add(f"{name} is not a fraction of the image, 0 to 1", f"{where} ({found})")
                return
        self.label_lines.setdefault(label, row.line)
        self.image_index.append(number)
        self.corners.extend(corners)
        self.label_index.append(self._label_numbers.setdefault(label, len(self._label_numbers)))
        self.is_group.append(self._flag(fields, self._is_group) == 1)
        self.lines.append(row.line)

    @staticmethod
    def _flag(fields: Sequence[str], column: int | None) -> float | None:
        return to_number(fields[column]) if column is not None and column < len(fields) else None


def _split_of(file: str) -> str | None:
    """The split in a file name such as `oidv6-train-annotations-bbox.csv`."""
    return next((name for name in SPLIT_NAMES if f"-{Path(file).name}".endswith(f"-{BOX_FILE.format(name)}")), None)


def _read_classes(folder: Path) -> dict[str, str] | None:
    """Class names by label name, from the class descriptions; None without them.

    Raises:
        InputError: the file is malformed.
    """
    file = next((path for path in sorted(folder.glob(f"*{CLASS_FILE}"))), None)
    if file is None:
        return None
    faults = Faults(str(file))
    names: dict[str, str] = {}
    used: set[str] = set()
    for row in rows_of(str(file), ","):
        place = f"line {row.line} ({short(row.fields)})"
        if row.fields == ["LabelName", "DisplayName"]:
            continue
        if len(row.fields) != 2 or not all(row.fields):
            faults.add("row that is not a label name and a class name", place)
        elif row.fields[0] in names or row.fields[1] in used:
            faults.add("name that is repeated", place)
        else:
            names[row.fields[0]] = row.fields[1]
            used.add(row.fields[1])
    faults.check()
    return names


def _likely_names(image_ids: Sequence[str]) -> list[str]:
    return [f"{image_id}{suffix}" for suffix in (".jpg", ".png", ".jpeg", ".JPG") for image_id in image_ids[:5]]


def _file_names(folder: str, image_ids: Sequence[str]) -> tuple[str, ...]:
    """File name of each image: that of an image named by its id or, as in Open Images itself, the id and .jpg."""
    by_stem = {os.path.splitext(name)[0]: name for name in image_files(Path(folder))}
    return tuple(by_stem.get(image_id, f"{image_id}.jpg") for image_id in image_ids)
