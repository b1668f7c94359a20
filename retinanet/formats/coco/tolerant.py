"""Read COCO files that deviate from the format: repair harmless deviations, and report all unreadable entries."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.checks.categories import with_id
from retinanet.formats.coco.box_columns import BoxColumns
from retinanet.formats.coco.large_file import MAX_NAMES, LargePart, is_large, outline
from retinanet.formats.coco.masks import box_of_segmentation
from retinanet.formats.coco.other_formats import describe_form
from retinanet.formats.coco.stream import file_of_url
from retinanet.formats.coco.values import Index, area, flag, identifier, is_box, text, whole_number
from retinanet.formats.federated import Federated, pairs_of
from retinanet.formats.findings import FindingCounter
from retinanet.formats.numbers import MAX_NUMBER
from retinanet.formats.short_repr import short
from retinanet.formats.text_files.json_file import load_json

PARTS = ("images", "annotations", "categories")
NO_BOX = [0.0, 0.0, 0.0, 0.0]  # has no area, so it is dropped and counted like other empty boxes


class _Image(NamedTuple):
    id: int | str
    name: str
    size: tuple[int, int]  # height and width; 0 if unknown


class _Category(NamedTuple):
    id: int | str
    name: str
    parent: str


def read_tolerantly(source: DataSource, *, lvis: bool = False) -> Annotations:
    """Read a COCO or LVIS file.

    Raises:
        InputError: see `read_coco`.
    """
    file = source.annotations
    is_too_large = is_large(file)
    document = outline(file) if is_too_large else load_json(file)
    if form := describe_form(document):
        raise InputError(f"{file}: is {form}")
    if not isinstance(document, dict) or not all(isinstance(document.get(part), list) for part in PARTS):
        found = sorted(map(short, document))[:20] if isinstance(document, dict) else type(document).__name__
        raise InputError(
            f"{file}: is not in COCO format: expected lists {', '.join(PARTS)}; found "
            f"{', '.join(found) if isinstance(found, list) else found}; export the annotations in COCO format"
        )
    parts = {part: LargePart(file, part) if is_too_large else document[part] for part in PARTS}
    return _Reader(file, parts, lvis=lvis).read(source)


class _Reader:
    """Read the parts of one file. The methods record problems in `found` and continue after unreadable entries."""

    def __init__(self, file: str, parts: Mapping[str, Iterable[Any]], *, lvis: bool):
        self.parts = parts
        self.lvis = lvis
        self.found = FindingCounter(file)
        self.lost_ids: set[str] = set()  # parts that have an entry with an unreadable id

    def read(self, source: DataSource) -> Annotations:
        images, categories = self.read_images(), self.read_categories()
        boxes = self.read_boxes(images, categories)
        federated = self.read_federated(categories) if self.lvis else None
        self.found.check()
        numbers = self.entry_numbers(boxes, images)
        category_ids = tuple(category.id for category in categories if isinstance(category.id, int))
        return Annotations(
            source=source.annotations,
            image_folder=source.images,
            file_names=tuple(image.name for image in images),
            image_ids=tuple(image.id for image in images),
            sizes=np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
            image_index=np.array(boxes.images, dtype=np.int64),
            boxes_xywh=np.array(boxes.boxes_xywh, dtype=np.float64).reshape(-1, 4),
            areas=np.array(boxes.areas, dtype=np.float64),
            category_index=np.array(boxes.categories, dtype=np.int64),
            is_crowd=np.array(boxes.is_crowd, dtype=bool),
            entry="annotation",
            entry_numbers=numbers,
            category_names=tuple(category.name for category in categories),
            category_ids=category_ids if len(category_ids) == len(categories) else None,
            supercategories=tuple(category.parent for category in categories),
            federated=federated,
            findings=self.found.findings(),
        )

    def read_images(self) -> list[_Image]:
        images: list[_Image] = []
        length = 0
        for position, item in enumerate(self.parts["images"]):
            place = f"images[{position}]"
            if not isinstance(item, dict):
                self.reject("image", "entry", "an object", f"{place} is {short(item)}")
                continue
            name, image_id = text(item.get("file_name")), identifier(item.get("id"))
            if self.lvis and name is None and (url := text(item.get("coco_url"))):
                name = file_of_url(url)
            if name is None:
                self.reject("image", "file_name", "the name of a file", f"{place} has {_value(item, 'file_name')}")
            if image_id is None:
                self.lost_ids.add("image")
                self.reject("image", "id", "an integer or a string", f"{name or place} has {_value(item, 'id')}")
                continue
            self.note_form("id", item["id"], exact=not isinstance(item["id"], float))
            images.append(_Image(image_id, name or place, self.read_size(item, name or place)))
            length += len(name or place) + len(str(image_id))
            if length > MAX_NAMES:
                raise InputError(f"{self.found.where}: image ids and names have more than {MAX_NAMES} characters")
        self.reject_repeated("image", [image.id for image in images], [image.name for image in images])
        return images

    def read_size(self, item: dict[str, Any], name: str) -> tuple[int, int]:
        height, width = whole_number(item.get("height")), whole_number(item.get("width"))
        if height is None or width is None or not (0 < height < MAX_NUMBER and 0 < width < MAX_NUMBER):
            self.found.add(
                "note", "size_unknown", "{count} image(s) have no valid size; it is read from the image files",
                f"{name}: width {_value(item, 'width')}, height {_value(item, 'height')}",
            )  # fmt: skip
            return 0, 0
        for field in ("height", "width"):
            self.note_form(field, item[field], exact=isinstance(item[field], int))
        return height, width

    def read_categories(self) -> list[_Category]:
        categories = []
        position = -1
        for position, item in enumerate(self.parts["categories"]):
            place = f"categories[{position}]"
            if not isinstance(item, dict):
                self.reject("category", "entry", "an object", f"{place} is {short(item)}")
                continue
            name = self.read_name(item.get("name"))
            if name is None:
                self.reject("category", "name", "a string", f"{place} has {_value(item, 'name')}")
            number = whole_number(item.get("id"))
            category_id = identifier(item.get("id")) if number is None else number
            if category_id is None:
                self.lost_ids.add("category")
                self.reject("category", "id", "an integer", f"{short(name or place)} has {_value(item, 'id')}")
                continue
            self.note_form("id", item["id"], exact=type(item["id"]) is type(category_id))
            parent = item.get("supercategory")
            categories.append(_Category(category_id, name or place, parent if isinstance(parent, str) else ""))
        if position < 0:
            self.reject("category", "list", "at least one category", "it is empty")
        self.reject_repeated("category", [c.id for c in categories], [short(c.name) for c in categories])
        if all(isinstance(category.id, int) for category in categories):
            categories.sort(key=lambda category: category.id)
        return self.with_unique_names(categories)

    def read_name(self, value: Any) -> str | None:
        number = None if isinstance(value, str) else whole_number(value)
        if number is not None or isinstance(value, float):
            name = str(value if number is None else number)
            self.found.add("note", "name_number", "{count} numeric category name(s) are converted to strings", name)
            return name
        return text(value)

    def with_unique_names(self, categories: list[_Category]) -> list[_Category]:
        """Strip whitespace from names unless that makes some equal, and append the id to repeated names."""
        names = [category.name for category in categories]
        stripped = [name.strip() for name in names]
        if stripped != names and len(set(stripped)) == len(set(names)):
            for name in names:
                if name != name.strip():
                    self.found.add(
                        "note",
                        "name_blanks",
                        "{count} category name(s) are used without surrounding whitespace",
                        short(name),
                    )
            names = stripped
        taken: set[str] = set()
        result = []
        for category, name in zip(categories, names, strict=True):
            while name in taken:
                name = with_id(name, category.id)
            taken.add(name)
            result.append(category._replace(name=name))
        return result

    def read_boxes(self, images: list[_Image], categories: list[_Category]) -> BoxColumns:
        image_index, category_index = Index([i.id for i in images]), Index([c.id for c in categories])
        boxes = BoxColumns()
        for position, item in enumerate(self.parts["annotations"]):
            if not isinstance(item, dict):
                self.reject("annotation", "entry", "an object", f"annotations[{position}] is {short(item)}")
                continue
            image, has_image_form = image_index.find(item.get("image_id"))
            category, has_category_form = category_index.find(item.get("category_id"))
            place = f"annotation {short(item['id'])}" if item.get("id") is not None else f"annotations[{position}]"
            if image is not None:
                place += f" of {images[image].name}"
            if category is not None:
                place += f", class {short(categories[category].name)}"
            for part, index, is_exact in (("image", image, has_image_form), ("category", category, has_category_form)):
                field = f"{part}_id"
                if index is not None:
                    self.note_form(field, item[field], exact=is_exact)
                elif identifier(item.get(field)) is None or part not in self.lost_ids:
                    self.reject("annotation", field, f"the id of a listed {part}", f"{place}: {_value(item, field)}")
            bbox = self.read_bbox(item, place)
            is_crowd = flag(item.get("iscrowd"))
            if is_crowd is None:
                self.reject("annotation", "iscrowd", "0 or 1", f"{place}: {_value(item, 'iscrowd')}")
            size = area(item.get("area"))
            if size is None:
                self.found.add(
                    "note", "area_invalid", "{count} area(s) are not finite numbers; they are computed from the boxes",
                    f"{place}: {_value(item, 'area')}",
                )  # fmt: skip
                size = np.nan
            if image is not None and category is not None:
                number = whole_number(item.get("id"))
                boxes.add(number=number, image=image, category=category, bbox=bbox, area=size, is_crowd=bool(is_crowd))
        return boxes

    def read_bbox(self, item: dict[str, Any], place: str) -> list[float]:
        bbox, segmentation = item.get("bbox"), item.get("segmentation")
        if is_box(bbox):
            return [float(value) for value in item["bbox"]]
        expected = "[x, y, width, height], four finite numbers"
        if bbox not in (None, []) or (bbox is None and segmentation is None and "bbox" not in item):
            self.reject("annotation", "bbox", expected, f"{place}: {_value(item, 'bbox')}")
            return NO_BOX
        try:
            found = box_of_segmentation(segmentation)
        except ValueError as error:
            self.reject("annotation", "segmentation", "polygons or a mask, since there is no bbox", f"{place}: {error}")
            return NO_BOX
        if found is None:
            return NO_BOX
        message = "{count} annotation(s) have no bbox; it is computed from their polygons or masks"
        self.found.add("note", "bbox_of_segmentation", message, place)
        return found

    def read_federated(self, categories: list[_Category]) -> Federated:
        index = Index([category.id for category in categories])
        pairs: dict[str, list[list[int]]] = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for position, item in enumerate(self.parts["images"]):
            for field, rows in pairs.items():
                ids = item.get(field) if isinstance(item, dict) else None
                found = [index.find(value)[0] for value in ids] if isinstance(ids, list) else [None]
                if None in found:
                    place = f"images[{position}] has {_value(item, field) if isinstance(item, dict) else short(item)}"
                    self.reject("image", field, "a list of category ids, as in LVIS", place)
                rows.append([value for value in found if value is not None])
        return Federated(*map(pairs_of, pairs.values()))

    def entry_numbers(self, boxes: BoxColumns, images: list[_Image]) -> np.ndarray:
        """Number the annotations by their ids, or from 1 if ids are missing or repeated."""
        repeated = boxes.repeated_numbers()
        if not boxes.without_number and not repeated:
            return np.array(boxes.numbers, dtype=np.int64)
        for row in boxes.without_number:
            message = "{count} annotation(s) have no integer id; all annotations are numbered from 1"
            self.found.add("note", "annotation_id_missing", message, f"in {images[boxes.images[row]].name}")
        for number in repeated:
            message = "{count} annotation id(s) are repeated; all annotations are numbered from 1"
            self.found.add("warning", "annotation_id_twice", message, f"id {number}")
        return np.arange(1, len(boxes.numbers) + 1)

    def reject(self, entry: str, field: str, expected: str, example: str) -> None:
        message = f"{{count}} {entry}(s) with an invalid {field}, expected {expected}".replace(
            "category(s)", "categories"
        )
        self.found.add("error", f"{entry}_{field}", message, example)

    def reject_repeated(self, entry: str, ids: list[int | str], names: list[str]) -> None:
        first: dict[int | str, str] = {}
        for entry_id, name in zip(ids, names, strict=True):
            if entry_id in first:
                message = f"{{count}} {entry} id(s) are repeated; ids must be unique"
                self.found.add(
                    "error", f"{entry}_id_twice", message, f"id {short(entry_id)}: {first[entry_id]} and {name}"
                )
            first.setdefault(entry_id, name)

    def note_form(self, field: str, value: Any, *, exact: bool) -> None:
        if not exact:
            message = "{count} integer(s) are written as strings or with a decimal point"
            self.found.add("note", "number_form", message, f"{field} {short(value)}")


def _value(item: dict[str, Any], field: str) -> str:
    return short(item[field]) if field in item else "missing"
