"""Parse one labelme file: its image, and the box around each closed shape."""

import errno
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from retinanet.formats.findings import FindingCounter
from retinanet.formats.numbers import MAX_NUMBER, is_number
from retinanet.formats.short_repr import short
from retinanet.formats.text_files.content import read_limited

MAX_BYTES = 1 << 28  # of one file, including the embedded image
MAX_PARSED = 1 << 23  # bytes without the embedded image; parsing a hostile file takes up to 45 times as much memory
WITHOUT_AREA = ("point", "points", "line", "linestrip")
MIN_POINTS = {"rectangle": 2, "circle": 2, "mask": 2}  # all other shapes: 3


class Shape(NamedTuple):
    """The box around a closed shape; `number` counts the shapes of the file from 1."""

    number: int
    label: str
    corners: tuple[float, float, float, float]


class LabelmeFile(NamedTuple):
    """The content of a labelme file; the size is (0, 0) if the file does not state it."""

    image_path: str
    size: tuple[int, int]  # height, width
    shapes: list[Shape]
    num_without_area: int  # points and lines, which are not objects


class OtherFile(NamedTuple):
    """A JSON file that was not written by labelme."""


def read_labelme_file(file: Path, where: str, errors: FindingCounter) -> LabelmeFile | OtherFile | None:
    """Read a file and record its problems in `errors`; return None if the file cannot be used.

    Args:
        where: the name of the file in messages.
    """
    try:
        document = _parse(read_limited(file, max_bytes=MAX_BYTES))
    except OSError as error:
        message = "{count} file(s) cannot be read; correct or restore them"
        errors.add("error", "file_unreadable", message, f"{where} ({error.strerror})")
        return None
    except UnicodeError:
        errors.add("error", "file_encoding", "{count} file(s) are not UTF-8 text; save them as UTF-8", where)
        return None
    except (ValueError, RecursionError) as error:
        message = "{count} file(s) are not JSON; save them in labelme again"
        errors.add("error", "file_not_json", message, f"{where} ({str(error)[:100]})")
        return None
    if not isinstance(document, dict) or not {"shapes", "imagePath"} & set(document):
        return OtherFile()
    shapes, image = document.get("shapes"), document.get("imagePath")
    if not isinstance(shapes, list):
        message = "{count} file(s) have invalid shapes, expected a list"
        errors.add("error", "shapes", message, f"{where} ({short(shapes)})")
        return None
    if not isinstance(image, str) or not image:
        message = "{count} file(s) have an invalid imagePath, expected the path of the image"
        errors.add("error", "image_path", message, f"{where} ({short(image)})")
        return None
    closed = []
    for number, shape in enumerate(shapes, 1):
        if not isinstance(shape, dict):
            message = "{count} shape(s) are not objects with label and points"
            errors.add("error", "shape", message, f"{where} shape {number} ({short(shape)})")
        elif shape.get("shape_type") not in WITHOUT_AREA:
            closed.append(_shape(shape, number, f"{where} shape {number}", errors))
    return LabelmeFile(
        image_path=image,
        size=_size(document),
        shapes=[shape for shape in closed if shape is not None],
        num_without_area=len(shapes) - len(closed),
    )


class _Fields(msgspec.Struct):
    """The fields that are used, before parsing; missing ones are empty."""

    shapes: msgspec.Raw = msgspec.Raw()
    imagePath: msgspec.Raw = msgspec.Raw()
    imageHeight: msgspec.Raw = msgspec.Raw()
    imageWidth: msgspec.Raw = msgspec.Raw()


def _parse(content: bytes) -> Any:
    """Parse a file; if it is large, parse only the fields that are used, to limit memory use.

    Raises:
        ValueError, RecursionError: the content is not JSON.
        OSError: it is large even without the embedded image.
    """
    if len(content) <= MAX_PARSED:
        return json.loads(content)
    try:
        fields = msgspec.structs.asdict(msgspec.json.decode(content, type=_Fields))
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    given = {name: bytes(value) for name, value in fields.items() if bytes(value)}
    if sum(map(len, given.values())) > MAX_PARSED:
        raise OSError(errno.EFBIG, f"it has more than {MAX_PARSED} bytes besides imageData")
    return {name: json.loads(value) for name, value in given.items()}


def _shape(shape: dict[str, Any], number: int, place: str, errors: FindingCounter) -> Shape | None:
    label, kind, points = shape.get("label"), shape.get("shape_type"), shape.get("points")
    if not isinstance(label, str) or not label.strip():
        message = "{count} shape(s) have an invalid label, expected the name of a class"
        errors.add("error", "shape_label", message, f"{place} ({short(label)})")
        return None
    least = MIN_POINTS.get(kind, 3) if isinstance(kind, str) else 3
    if not isinstance(points, list) or len(points) < least or not all(map(_is_point, points)):
        message = f"{{count}} shape(s) have invalid points, expected at least {least} pairs of numbers"
        errors.add("error", "shape_points", message, f"{place} ({short(points)})")
        return None
    return Shape(number, label.strip(), _corners(kind, points))


def _size(document: dict[str, Any]) -> tuple[int, int]:
    """Return height and width; 0 if they are missing or unusable, in which case they are read from the image."""
    size = document.get("imageHeight"), document.get("imageWidth")
    return size if all(type(side) is int and 0 < side < MAX_NUMBER for side in size) else (0, 0)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _corners(kind: str, points: list[list[float]]) -> tuple[float, float, float, float]:
    """Return the corners of the smallest box around a shape."""
    if kind == "circle":  # the centre and a point on the circle
        (x, y), (edge_x, edge_y) = points[:2]
        radius = math.hypot(edge_x - x, edge_y - y)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*points, strict=True)
    inclusive = 1 if kind == "mask" else 0  # the corners of a mask are its first and last pixel
    return min(xs), min(ys), max(xs) + inclusive, max(ys) + inclusive
