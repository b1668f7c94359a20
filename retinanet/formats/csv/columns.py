"""Recognise the columns of a CSV file of boxes, with or without a header."""

from typing import NamedTuple

from retinanet.errors import InputError
from retinanet.formats.numbers import to_number
from retinanet.formats.short_repr import short
from retinanet.formats.text_files.table import first_rows

EXPECTED = "image_path,xmin,ymin,xmax,ymax,label"
CORNERS = ("x1", "y1", "x2", "y2")
HEADERLESS = {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "label": 5}
# Column names of each field, preferred names first.
REQUIRED = {
    "image": ("image_path", "image", "filename", "file_name", "path", "image_name", "img_path"),
    "x1": ("xmin", "x_min", "x1", "left"),
    "y1": ("ymin", "y_min", "y1", "top"),
    "x2": ("xmax", "x_max", "x2", "right"),
    "y2": ("ymax", "y_max", "y2", "bottom"),
    "label": ("label", "class", "class_name", "category", "label_name"),
}
OPTIONAL = {"height": ("height", "image_height"), "width": ("width", "image_width")}


class Layout(NamedTuple):
    """The column layout of a file."""

    delimiter: str
    columns: dict[str, int]  # by field
    names: dict[str, str]  # by field: the column's name in messages
    num_columns: int
    has_header: bool


def find_layout(file: str) -> Layout:
    """Recognise delimiter and columns from the first row.

    Raises:
        InputError: the file cannot be read, is empty, or lacks columns.
    """
    rows = first_rows(file)
    if not rows:
        raise InputError(f"{file}: is empty; expected rows {EXPECTED}")
    for delimiter, row in rows.items():
        if len(row.fields) == len(HEADERLESS) and _has_coordinates(row.fields):
            names = {name: name if name != "image" else "path" for name in HEADERLESS}
            return Layout(delimiter, HEADERLESS, names, len(row.fields), has_header=False)
    delimiter, (line, fields) = max(rows.items(), key=lambda item: len(item[1].fields))
    lowered = [name.lower() for name in fields]
    columns = {
        name: lowered.index(alias)
        for name, aliases in {**REQUIRED, **OPTIONAL}.items()
        if (alias := next((alias for alias in aliases if alias in lowered), None)) is not None
    }
    missing = [REQUIRED[name][0] for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(
            f"{file}: line {line} lacks the columns {', '.join(missing)}; found {short(fields)}; expected a header "
            f"with {EXPECTED}, or rows with these columns and no header"
        )
    repeated = [fields[index] for index in columns.values() if lowered.count(lowered[index]) > 1]
    if repeated:
        raise InputError(f"{file}: line {line} has the column {short(repeated[0])} twice; remove one")
    return Layout(
        delimiter, columns, {name: fields[index] for name, index in columns.items()}, len(fields), has_header=True
    )


def _has_coordinates(fields: list[str]) -> bool:
    """Whether a row without a header describes a box, or an image without objects."""
    corners = [fields[HEADERLESS[name]] for name in CORNERS]
    return not any(corners) or any(to_number(text) is not None for text in corners)
