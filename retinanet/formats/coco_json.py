"""Parse and validate COCO annotation files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from retinanet.errors import InputError

MAX_NUMBER = 1e9  # pixels or square pixels; larger values are mistakes, and would overflow


def read_document(file: str) -> dict[str, Any]:
    """Read an annotation file, and check all types and references that the reader relies on.

    Raises:
        InputError: the file is missing, or is not valid COCO JSON; the message names the first invalid field.
    """
    try:
        document = json.loads(Path(file).read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; set data.*.annotations to a COCO file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(document.get(k), list) for k in _FIELDS):
        found = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{file}: is not in COCO format: expected lists {', '.join(_FIELDS)}; found {found}")
    for part in _FIELDS:
        _check_fields(document[part], part, file)
    _check_categories(document, file)
    _check_references(document, file)
    return document


def _check_fields(items: list[Any], part: str, file: str) -> None:
    for position, item in enumerate(items):
        for field, (is_valid, expected) in _FIELDS[part].items():
            if not isinstance(item, dict) or not is_valid(item.get(field)):
                value = item.get(field) if isinstance(item, dict) else item
                found = "missing" if isinstance(item, dict) and field not in item else repr(value)[:80]
                raise InputError(f"{file}: {part}[{position}].{field} is {found}, expected {expected}")
    repeated = [value for value, count in Counter(item["id"] for item in items).items() if count > 1]
    if repeated:
        raise InputError(f"{file}: {part}: duplicate id {repeated[0]!r}; ids must be unique")


def _check_categories(document: dict[str, Any], file: str) -> None:
    names = Counter(category["name"] for category in document["categories"])
    if not names or max(names.values()) > 1:
        raise InputError(f"{file}: categories are {list(names)}; there must be at least one, and names must be unique")


def _check_references(document: dict[str, Any], file: str) -> None:
    image_ids = {image["id"] for image in document["images"]}
    category_ids = {category["id"] for category in document["categories"]}
    for annotation in document["annotations"]:
        for field, known in (("image_id", image_ids), ("category_id", category_ids)):
            if annotation[field] not in known:
                raise InputError(
                    f"{file}: annotation {annotation['id']} has {field} {annotation[field]!r}, which is not listed"
                )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_image_id(value: Any) -> bool:
    return _is_integer(value) or _is_text(value)


def _is_length(value: Any) -> bool:
    return value is None or (_is_integer(value) and 0 < value < MAX_NUMBER)


def _is_number(value: Any) -> bool:
    # The comparison is false for NaN and, unlike math.isfinite, accepts integers of any size.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_number(v) for v in value)


def _is_area(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_flag(value: Any) -> bool:
    return value in (None, 0, 1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


# By part and field: a function that recognises valid values, and the wording of an error message.
_ID = (_is_integer, "an integer")
_PIXELS = (_is_length, "a number of pixels, an integer above 0")
_FIELDS = {
    "images": {
        "id": (_is_image_id, "an integer or a text"),
        "file_name": (_is_text, "a file name"),
        "height": _PIXELS,
        "width": _PIXELS,
    },
    "annotations": {
        "id": _ID,
        "image_id": (_is_image_id, "the id of a listed image"),
        "category_id": (_is_integer, "the id of a listed category"),
        "bbox": (_is_box, "[x, y, width, height], four finite numbers"),
        "area": (_is_area, "a finite number, or nothing"),
        "iscrowd": (_is_flag, "0 or 1"),
    },
    "categories": {"id": _ID, "name": (_is_text, "a name")},
}
