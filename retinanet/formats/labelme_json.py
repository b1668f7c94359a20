"""Parse one labelme file: the image that it describes, and the box around each closed shape."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from retinanet.formats.faults import Faults
from retinanet.formats.short_repr import short

MAX_BYTES = 1 << 28  # of one file, with the embedded image
MAX_NUMBER = 1e9  # pixels; larger values are mistakes
WITHOUT_AREA = ("point", "points", "line", "linestrip")
MIN_POINTS = {"rectangle": 2, "circle": 2, "mask": 2}  # of other shapes: 3


class Shape(NamedTuple):
    """The box around a closed shape; `number` counts the shapes of the file from 1."""

    number: int
    label: str
    corners: tuple[float, float, float, float]


class LabelmeFile(NamedTuple):
    """What a labelme file says; the size is (0, 0) where the file does not give it."""

    image_path: str
    size: tuple[int, int]  # height, width
    shapes: list[Shape]
    num_without_area: int  # points and lines, which are no objects


class OtherFile(NamedTuple):
    """A JSON file that is not labelme's."""


def read_labelme_file(file: Path, where: str, faults: Faults) -> LabelmeFile | OtherFile | None:
    """Read a file, and record its faults under the name `where`. Returns None if it cannot be used."""
    try:
        if file.stat().st_size > MAX_BYTES:
            faults.add(f"over {MAX_BYTES >> 20} MiB", where)
            return None
        document = json.loads(file.read_bytes())
    except OSError as error:
        faults.add(f"cannot be read: {error.strerror}", where)
        return None
    except UnicodeError:
        faults.add("not UTF-8 text, save it as UTF-8", where)
        return None
    except (ValueError, RecursionError) as error:
        faults.add("not JSON", f"{where} ({str(error)[:100]})")
        return None
    if not isinstance(document, dict) or not {"shapes", "imagePath"} & set(document):
        return OtherFile()
    shapes, image = document.get("shapes"), document.get("imagePath")
    if not isinstance(shapes, list):
        faults.add("shapes is not a list", f"{where} ({short(shapes)})")
        return None
    if not isinstance(image, str) or not image:
        faults.add("imagePath is not a path", f"{where} ({short(image)})")
        return None
    closed = []
    for number, shape in enumerate(shapes, 1):
        if not isinstance(shape, dict):
            faults.add("shape that is not a record", f"{where} shape {number} ({short(shape)})")
        elif shape.get("shape_type") not in WITHOUT_AREA:
            closed.append(_shape(shape, number, f"{where} shape {number}", faults))
    return LabelmeFile(
        image_path=image,
        size=_size(document),
        shapes=[shape for shape in closed if shape is not None],
        num_without_area=len(shapes) - len(closed),
    )


def _shape(shape: dict[str, Any], number: int, place: str, faults: Faults) -> Shape | None:
    label, kind, points = shape.get("label"), shape.get("shape_type"), shape.get("points")
    if not isinstance(label, str) or not label.strip():
        faults.add("label that is not a name", f"{place} ({short(label)})")
        return None
    least = MIN_POINTS.get(kind, 3) if isinstance(kind, str) else 3
    if not isinstance(points, list) or len(points) < least or not all(map(_is_point, points)):
        faults.add(f"points that are not {least} or more pairs of numbers", f"{place} ({short(points)})")
        return None
    return Shape(number, label.strip(), _corners(kind, points))


def _size(document: dict[str, Any]) -> tuple[int, int]:
    """Height and width; 0 if they are missing or unusable, so that they are read from the image."""
    size = document.get("imageHeight"), document.get("imageWidth")
    return size if all(type(side) is int and 0 < side < MAX_NUMBER for side in size) else (0, 0)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_coordinate, value))


def _is_coordinate(value: Any) -> bool:
    # The comparison is false for NaN and, unlike math.isfinite, accepts integers of any size.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _corners(kind: str, points: list[list[float]]) -> tuple[float, float, float, float]:
    """Corners of the smallest box around a shape."""
    if kind == "circle":  # the centre and a point on the circle
        (x, y), (edge_x, edge_y) = points[:2]
        radius = math.hypot(edge_x - x, edge_y - y)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*points, strict=True)
    inclusive = 1 if kind == "mask" else 0  # the corners of a mask are its first and last pixel
    return min(xs), min(ys), max(xs) + inclusive, max(ys) + inclusive
