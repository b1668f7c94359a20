"""CSV annotations, one box a row: with a header, as DeepForest uses, or without, as keras-retinanet does.

An image without objects is a row without a box: its coordinates are empty, or all 0.
"""

import csv
import io
from array import array
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.corners import side_losses, to_corners, to_sides
from retinanet.formats.csv_columns import CORNERS, EXPECTED, Layout, find_layout, to_number
from retinanet.formats.dataset import Dataset
from retinanet.formats.faults import Faults
from retinanet.formats.short_repr import short
from retinanet.formats.table import Row, rows_of
from retinanet.formats.writing import Losses, area_losses, image_id_losses, image_names, occurring, write_new_files

CLASS_FILE = "classes.csv"
BOX_FILE = "annotations.csv"
MAX_NUMBER = 1e9  # pixels; larger values are mistakes


def read_csv(source: DataSource) -> Annotations:
    """Read a CSV file; classes are ordered by the ids in `classes.csv` beside it, or by name without that.

    Raises:
        InputError: the file is missing or malformed; the message lists its faults by line.
    """
    file = source.annotations
    layout = find_layout(file)
    rows = rows_of(file, layout.delimiter)
    if layout.has_header:
        next(rows)
    faults = Faults(file)
    content = _Content(layout, faults)
    for row in rows:
        content.add(row)
    classes = _read_classes(Path(file).with_name(CLASS_FILE))
    if classes is not None:
        for name, line in content.label_lines.items():
            if name not in classes:
                faults.add(f"class missing in {CLASS_FILE}", f"line {line} ({short(name)})")
    faults.check()
    names = tuple(sorted(content.label_lines) if classes is None else classes)
    if not names:
        raise InputError(f"{file}: has no boxes; expected rows {EXPECTED}")
    index_of = {name: index for index, name in enumerate(names)}
    category_of = np.array([index_of[name] for name in content.label_lines], dtype=np.int64)
    corners = np.array(content.corners, dtype=np.float64).reshape(-1, 4)
    return Annotations(
        source=file,
        image_folder=source.images,
        file_names=tuple(content.sizes),
        image_ids=None,
        sizes=np.array([size or (0, 0) for size in content.sizes.values()], dtype=np.int64).reshape(-1, 2),
        image_index=np.array(content.image_index, dtype=np.int64),
        boxes_xywh=to_sides(corners),
        areas=np.full(len(corners), np.nan),
        category_index=category_of[np.array(content.label_index, dtype=np.int64)],
        is_crowd=np.zeros(len(corners), dtype=bool),
        entry="line",
        entry_numbers=np.array(content.lines, dtype=np.int64),
        category_names=names,
        category_ids=None if classes is None else tuple(classes.values()),
    )


def write_csv(dataset: Dataset, folder: Path, *, split: str) -> Losses:
    """Write `SPLIT/annotations.csv` with DeepForest's header, and `SPLIT/classes.csv` with the order of the classes.

    File names are relative to the folder of the file. An image without objects is a row without a box.

    Returns:
        What the format cannot express, with counts.

    Raises:
        InputError: a file exists or cannot be written.
    """
    table, classes = io.StringIO(), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(EXPECTED.split(","))
    names, corners = image_names(dataset), to_corners(dataset.boxes_xywh)
    for index, name in enumerate(names):
        rows = range(dataset.box_start[index], dataset.box_start[index + 1])
        objects = [row for row in rows if not dataset.is_crowd[row]]
        for row in objects:
            writer.writerow([name, *map(_text, corners[row].tolist()), dataset.class_names[dataset.labels[row]]])
        if not objects:
            writer.writerow([name, "", "", "", "", ""])
    csv.writer(classes, lineterminator="\n").writerows(zip(dataset.class_names, dataset.category_ids, strict=True))
    place = folder / split
    write_new_files({place / BOX_FILE: table.getvalue(), place / CLASS_FILE: classes.getvalue()})
    counts = {
        "crowd regions are not written": int(dataset.is_crowd.sum()),
        "images listed several times are joined": len(names) - len(set(names)),
    }
    return occurring(counts) | side_losses(dataset) | image_id_losses(dataset) | area_losses(dataset)


class _Content:
    """What the rows say, in compact arrays: a file may have millions."""

    def __init__(self, layout: Layout, faults: Faults):
        self._layout = layout
        self._faults = faults
        self._image_numbers: dict[str, int] = {}
        self._label_numbers: dict[str, int] = {}
        self.sizes: dict[str, tuple[int, int] | None] = {}  # by file name, in order of appearance
        self.label_lines: dict[str, int] = {}  # first line of each class
        self.image_index, self.label_index, self.lines = array("q"), array("q"), array("q")
        self.corners = array("d")

    def add(self, row: Row) -> None:
        layout, where = self._layout, f"line {row.line}"
        if len(row.fields) < layout.num_columns or any(row.fields[layout.num_columns :]):
            self._faults.add(f"row without {layout.num_columns} fields", f"{where} ({len(row.fields)})")
            return
        image = row.fields[layout.columns["image"]]
        if not image:
            self._faults.add(f"{layout.names['image']} is empty", where)
            return
        number = self._image_numbers.setdefault(image, len(self._image_numbers))
        self._add_size(image, row, where)
        texts = [row.fields[layout.columns[name]] for name in CORNERS]
        corners = [to_number(text) for text in texts]
        if not any(texts) or not any(value is None or value for value in corners):
            return  # an image without objects
        for name, text, value in zip(CORNERS, texts, corners, strict=True):
            if value is None or abs(value) >= MAX_NUMBER:
                is_decimal_comma = value is None and to_number(text.replace(",", ".")) is not None
                comma = ", with a decimal point" if is_decimal_comma else ""
                self._faults.add(f"{layout.names[name]} is not a number of pixels{comma}", f"{where} ({short(text)})")
                return
        label = row.fields[layout.columns["label"]]
        if not label:
            self._faults.add(f"{layout.names['label']} is empty, but there is a box", where)
            return
        self.label_lines.setdefault(label, row.line)
        self.image_index.append(number)
        self.corners.extend(corners)
        self.label_index.append(self._label_numbers.setdefault(label, len(self._label_numbers)))
        self.lines.append(row.line)

    def _add_size(self, image: str, row: Row, where: str) -> None:
        """Take the image size from the row, if it has one; -1, 0 and empty fields mean that it is unknown."""
        columns, known = self._layout.columns, self.sizes.setdefault(image, None)
        if "height" not in columns or "width" not in columns:
            return
        texts = row.fields[columns["width"]], row.fields[columns["height"]]
        width, height = (to_number(text or "0") for text in texts)
        if height is None or width is None or height % 1 or width % 1 or max(height, width) >= MAX_NUMBER:
            self._faults.add("image size is not whole numbers", f"{where} ({short(texts)})")
        elif height > 0 and width > 0:
            if known not in (None, (height, width)):
                self._faults.add("image size differs from that in an earlier line", f"{where} ({short(image)})")
            self.sizes[image] = int(height), int(width)


def _read_classes(file: Path) -> dict[str, int] | None:
    """Ids by class name, ordered by id, as keras-retinanet lists them; None if there is no such file.

    Raises:
        InputError: the file is malformed.
    """
    if not file.is_file():
        return None
    faults = Faults(str(file))
    ids: dict[str, int] = {}
    used: set[int] = set()
    for position, row in enumerate(rows_of(str(file), ",")):
        number = to_number(row.fields[-1])
        if number is None and position == 0 and len(row.fields) == 2:
            continue  # a header
        place = f"line {row.line} ({short(row.fields)})"
        if len(row.fields) != 2 or not row.fields[0] or number is None or number % 1 or not 0 <= number < MAX_NUMBER:
            faults.add("row that is not name,id with a whole number", place)
        elif row.fields[0] in ids or number in used:
            faults.add("name or id that is repeated", place)
        else:
            ids[row.fields[0]] = int(number)
            used.add(int(number))
    faults.check()
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def _text(value: float) -> str:
    """The shortest text of a number that is read as the same number; without a point if it is whole."""
    return str(int(value)) if value.is_integer() else repr(value)
