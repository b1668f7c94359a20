"""Read CSV annotations, one box per row, with a header (as in DeepForest) or without (as in keras-retinanet).

An image without objects has a row whose coordinates are empty or all 0.
"""

from array import array
from pathlib import Path

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.corners import to_xywh
from retinanet.formats.csv.columns import CORNERS, EXPECTED, Layout, find_layout
from retinanet.formats.findings import FindingCounter
from retinanet.formats.numbers import to_number
from retinanet.formats.short_repr import short
from retinanet.formats.text_files.table import Row, rows_of

CLASS_FILE = "classes.csv"
BOX_FILE = "annotations.csv"


def read_csv(source: DataSource) -> Annotations:
    """Read a CSV file; classes are ordered by the ids in `classes.csv` beside it or, without that file, by name.

    Raises:
        InputError: the file is missing or malformed; the message lists all errors with their lines.
    """
    file = source.annotations
    layout = find_layout(file)
    rows = rows_of(file, layout.delimiter)
    if layout.has_header:
        next(rows)
    findings = FindingCounter(file)
    content = _Content(layout, findings)
    for row in rows:
        content.add(row)
    classes = _read_classes(Path(file).with_name(CLASS_FILE))
    if classes is not None:
        for name, line in content.label_lines.items():
            if name not in classes:
                message = f"{{count}} class(es) are not in {CLASS_FILE}; add them to that file or correct their names"
                findings.add("error", "class_unknown", message, f"line {line} ({short(name)})")
    findings.check()
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
        boxes_xywh=to_xywh(corners),
        areas=np.full(len(corners), np.nan),
        category_index=category_of[np.array(content.label_index, dtype=np.int64)],
        is_crowd=np.zeros(len(corners), dtype=bool),
        entry="line",
        entry_numbers=np.array(content.lines, dtype=np.int64),
        category_names=names,
        category_ids=None if classes is None else tuple(classes.values()),
    )


class _Content:
    """The content of the rows, in compact arrays because a file may have millions."""

    def __init__(self, layout: Layout, findings: FindingCounter):
        self._layout = layout
        self._findings = findings
        self._image_numbers: dict[str, int] = {}
        self._label_numbers: dict[str, int] = {}
        self.sizes: dict[str, tuple[int, int] | None] = {}  # by file name, in order of appearance
        self.label_lines: dict[str, int] = {}  # first line of each class
        self.image_index, self.label_index, self.lines = array("q"), array("q"), array("q")
        self.corners = array("d")

    def add(self, row: Row) -> None:
        layout, where = self._layout, f"line {row.line}"
        if len(row.fields) < layout.num_columns or any(row.fields[layout.num_columns :]):
            message = f"{{count}} row(s) do not have {layout.num_columns} fields"
            self._findings.add("error", "row_fields", message, f"{where} ({len(row.fields)})")
            return
        image = row.fields[layout.columns["image"]]
        if not image:
            message = f"{{count}} row(s) have no {layout.names['image']}; add the name of the image or remove the row"
            self._findings.add("error", "row_image", message, where)
            return
        number = self._image_numbers.setdefault(image, len(self._image_numbers))
        self._add_size(image, row, where)
        texts = [row.fields[layout.columns[name]] for name in CORNERS]
        corners = [to_number(text) for text in texts]
        if not any(texts) or not any(value is None or value for value in corners):
            return  # an image without objects
        for name, text, value in zip(CORNERS, texts, corners, strict=True):
            if value is None:
                is_decimal_comma = value is None and to_number(text.replace(",", ".")) is not None
                comma = "; write numbers with a decimal point, not a comma" if is_decimal_comma else ""
                message = f"{{count}} row(s) have an invalid {layout.names[name]}, expected a number of pixels{comma}"
                self._findings.add("error", "row_box", message, f"{where} ({short(text)})")
                return
        label = row.fields[layout.columns["label"]]
        if not label:
            message = (
                f"{{count}} row(s) have a box but no {layout.names['label']}; add the class name or remove the box"
            )
            self._findings.add("error", "row_label", message, where)
            return
        self.label_lines.setdefault(label, row.line)
        self.image_index.append(number)
        self.corners.extend(corners)
        self.label_index.append(self._label_numbers.setdefault(label, len(self._label_numbers)))
        self.lines.append(row.line)

    def _add_size(self, image: str, row: Row, where: str) -> None:
        """Record the image size if the row has one; -1, 0 and empty fields mean that it is unknown."""
        columns, known = self._layout.columns, self.sizes.setdefault(image, None)
        if "height" not in columns or "width" not in columns:
            return
        texts = row.fields[columns["width"]], row.fields[columns["height"]]
        width, height = (to_number(text or "0") for text in texts)
        if height is None or width is None or height % 1 or width % 1:
            message = "{count} row(s) have an invalid image size, expected whole numbers of pixels"
            self._findings.add("error", "image_size", message, f"{where} ({short(texts)})")
        elif height > 0 and width > 0:
            if known not in (None, (height, width)):
                message = "{count} row(s) contradict the image size in an earlier row of the same image; correct one"
                self._findings.add("error", "image_size_differs", message, f"{where} ({short(image)})")
            self.sizes[image] = int(height), int(width)


def _read_classes(file: Path) -> dict[str, int] | None:
    """Read ids by class name, ordered by id, from a keras-retinanet class file; return None if there is no such file.

    Raises:
        InputError: the file is malformed.
    """
    if not file.is_file():
        return None
    findings = FindingCounter(str(file))
    ids: dict[str, int] = {}
    used: set[int] = set()
    for position, row in enumerate(rows_of(str(file), ",")):
        number = to_number(row.fields[-1])
        if number is None and position == 0 and len(row.fields) == 2:
            continue  # a header
        place = f"line {row.line} ({short(row.fields)})"
        if len(row.fields) != 2 or not row.fields[0] or number is None or number % 1 or number < 0:
            message = "{count} row(s) are not a class, expected name,id with an integer id"
            findings.add("error", "class_row", message, place)
        elif row.fields[0] in ids or number in used:
            message = "{count} row(s) repeat a name or an id; both must be unique"
            findings.add("error", "class_twice", message, place)
        else:
            ids[row.fields[0]] = int(number)
            used.add(int(number))
    findings.check()
    return dict(sorted(ids.items(), key=lambda item: item[1]))
