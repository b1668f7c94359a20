"""Read Open Images annotations: one CSV file of boxes per split, with coordinates as fractions of the image.

A row with a confidence of 0 states that a class is absent: its image is included, without a box. Files of image-level
labels are not read, so images without a row in the box file are not part of the dataset. Boxes around groups of objects
become crowd regions.
"""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.corners import to_xywh
from retinanet.formats.findings import FindingCounter
from retinanet.formats.image_paths.folder import find_image_folder
from retinanet.formats.image_paths.listing import image_files
from retinanet.formats.numbers import to_number
from retinanet.formats.short_repr import short
from retinanet.formats.splits import SPLIT_NAMES
from retinanet.formats.text_files.table import Row, rows_of

BOX_FILE = "{}-annotations-bbox.csv"
CLASS_FILE = "class-descriptions-boxable.csv"
HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
).split(",")
EDGES = ("XMin", "YMin", "XMax", "YMax")
REQUIRED = ("ImageID", "LabelName", *EDGES)
OUTSIDE_TOLERANCE = 0.1  # how far a box may extend beyond the image, as a fraction of it


def read_open_images(source: DataSource, part: str) -> Annotations:
    """Read an Open Images box file.

    Classes are those in `class-descriptions-boxable.csv` beside the file, in the same order. Without that file, they
    are the label names themselves, sorted.

    Args:
        part: "train" or "val", the config section of the source.

    Raises:
        InputError: the file is missing or malformed; the message lists all errors with their lines.
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
    findings = FindingCounter(file)
    content = _Content(columns, findings)
    for row in rows:
        content.add(row)
    classes = _read_classes(Path(file).parent)
    if classes is not None:
        for label, line in content.label_lines.items():
            if label not in classes:
                message = "{count} LabelName(s) are not in the class descriptions; add them to that file"
                findings.add("error", "class_unknown", message, f"line {line} ({short(label)})")
    findings.check()
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
        boxes_xywh=to_xywh(corners),
        areas=np.full(len(corners), np.nan),
        category_index=category_of[np.array(content.label_index, dtype=np.int64)],
        is_crowd=np.array(content.is_group, dtype=bool),
        entry="line",
        entry_numbers=np.array(content.lines, dtype=np.int64),
        category_names=names,
        category_ids=None,
        is_relative=True,
    )


class _Content:
    """The content of the rows, in compact arrays: the training set of Open Images has 14 million rows."""

    def __init__(self, columns: dict[str, int], findings: FindingCounter):
        self._columns = columns
        self._width = 1 + max(columns[name] for name in REQUIRED)
        self._confidence = columns.get("Confidence")
        self._is_group = columns.get("IsGroupOf")
        self._findings = findings
        self._label_numbers: dict[str, int] = {}
        self.image_numbers: dict[str, int] = {}  # by image id, in order of appearance
        self.label_lines: dict[str, int] = {}  # first line of each label
        self.image_index, self.label_index, self.lines = array("q"), array("q"), array("q")
        self.is_group = array("b")
        self.corners = array("d")

    def add(self, row: Row) -> None:
        fields, columns, where = row.fields, self._columns, f"line {row.line}"
        if len(fields) < self._width:
            message = f"{{count}} row(s) have fewer than {self._width} fields"
            self._findings.add("error", "row_fields", message, f"{where} ({len(fields)})")
            return
        image, label = fields[columns["ImageID"]], fields[columns["LabelName"]]
        if not image or not label:
            message = "{count} row(s) have no ImageID or no LabelName; add it or remove the row"
            self._findings.add("error", "row_names", message, where)
            return
        number = self.image_numbers.setdefault(image, len(self.image_numbers))
        if self._flag(fields, self._confidence) == 0:
            return  # the class is verified to be absent
        corners = [to_number(fields[columns[name]]) for name in EDGES]
        for name, value in zip(EDGES, corners, strict=True):
            if value is None or not -OUTSIDE_TOLERANCE <= value <= 1 + OUTSIDE_TOLERANCE:
                found = short(fields[columns[name]])
                message = f"{{count}} row(s) have an invalid {name}, expected a fraction of the image, 0 to 1"
                self._findings.add("error", "row_box", message, f"{where} ({found})")
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
    """Return the split in a file name such as `oidv6-train-annotations-bbox.csv`."""
    return next((name for name in SPLIT_NAMES if f"-{Path(file).name}".endswith(f"-{BOX_FILE.format(name)}")), None)


def _read_classes(folder: Path) -> dict[str, str] | None:
    """Read class names by label name from the class descriptions; return None if there is no such file.

    Raises:
        InputError: the file is malformed.
    """
    file = next((path for path in sorted(folder.glob(f"*{CLASS_FILE}"))), None)
    if file is None:
        return None
    findings = FindingCounter(str(file))
    names: dict[str, str] = {}
    used: set[str] = set()
    for row in rows_of(str(file), ","):
        place = f"line {row.line} ({short(row.fields)})"
        if row.fields == ["LabelName", "DisplayName"]:
            continue
        if len(row.fields) != 2 or not all(row.fields):
            message = "{count} row(s) are not a class, expected a label name and a class name"
            findings.add("error", "class_row", message, place)
        elif row.fields[0] in names or row.fields[1] in used:
            message = "{count} row(s) repeat a name; label names and class names must be unique"
            findings.add("error", "class_twice", message, place)
        else:
            names[row.fields[0]] = row.fields[1]
            used.add(row.fields[1])
    findings.check()
    return names


def _likely_names(image_ids: Sequence[str]) -> list[str]:
    return [f"{image_id}{suffix}" for suffix in (".jpg", ".png", ".jpeg", ".JPG") for image_id in image_ids[:5]]


def _file_names(folder: str, image_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the file name of each image: the existing file whose stem is its id, otherwise the id with .jpg."""
    by_stem = {os.path.splitext(name)[0]: name for name in image_files(Path(folder))}
    return tuple(by_stem.get(image_id, f"{image_id}.jpg") for image_id in image_ids)
