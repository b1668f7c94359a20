"""Read COCO files as annotation tools write them: repair what is harmless, and list everything that cannot be read."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.category_check import with_id
from retinanet.formats.coco_stream import file_of_url
from retinanet.formats.coco_values import MAX_NUMBER, Index, area, flag, identifier, is_box, shown, text, whole_number
from retinanet.formats.federated import Federated, pairs_of
from retinanet.formats.findings import FindingCounter, report
from retinanet.formats.json_file import load_json
from retinanet.formats.json_forms import describe_form
from retinanet.formats.object_masks import box_of_segmentation

PARTS = ("images", "annotations", "categories")
NO_BOX = [0.0, 0.0, 0.0, 0.0]  # without area, so it is dropped and counted with all such boxes


class _Image(NamedTuple):
    id: int | str
    name: str
    size: tuple[int, int]  # height and width; 0 if unknown


class _Category(NamedTuple):
    id: int | str
    name: str
    parent: str


class _Box(NamedTuple):
    number: int | None
    image: int
    category: int
    bbox: list[float]
    area: float
    is_crowd: bool


def read_tolerantly(source: DataSource, *, lvis: bool = False) -> Annotations:
    """Read a COCO or LVIS file.

    Raises:
        InputError: see `read_coco`.
    """
    file = source.annotations
    document = load_json(file)
    if form := describe_form(document):
        raise InputError(f"{file}: is {form}")
    if not isinstance(document, dict) or not all(isinstance(document.get(part), list) for part in PARTS):
        found = sorted(map(shown, document))[:20] if isinstance(document, dict) else type(document).__name__
        raise InputError(
            f"{file}: is not in COCO format: expected lists {', '.join(PARTS)}; found "
            f"{', '.join(found) if isinstance(found, list) else found}; export the annotations in COCO format"
        )
    return _Reader(file, document, lvis=lvis).read(source)


class _Reader:
    """Reads one document. The methods add to `found`, and go on after entries that cannot be read, to find them all."""

    def __init__(self, file: str, document: dict[str, Any], *, lvis: bool):
        self.document = document
        self.lvis = lvis
        self.found = FindingCounter(file)
        self.lost_ids: set[str] = set()  # parts with an entry whose id cannot be read

    def read(self, source: DataSource) -> Annotations:
        images, categories = self.read_images(), self.read_categories()
        boxes = self.read_boxes(images, categories)
        federated = self.read_federated(categories) if self.lvis else None
        report(finding for finding in self.found.findings() if finding.severity == "error")
        numbers = self.entry_numbers(boxes, images)
        category_ids = tuple(category.id for category in categories if isinstance(category.id, int))
        return Annotations(
            source=source.annotations,
            image_folder=source.images,
            file_names=tuple(image.name for image in images),
            image_ids=tuple(image.id for image in images),
            sizes=np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
            image_index=np.array([box.image for box in boxes], dtype=np.int64),
            boxes_xywh=np.array([box.bbox for box in boxes], dtype=np.float64).reshape(-1, 4),
            areas=np.array([box.area for box in boxes], dtype=np.float64),
            category_index=np.array([box.category for box in boxes], dtype=np.int64),
            is_crowd=np.array([box.is_crowd for box in boxes], dtype=bool),
            entry="annotation",
            entry_numbers=np.array(numbers, dtype=np.int64),
            category_names=tuple(category.name for category in categories),
            category_ids=category_ids if len(category_ids) == len(categories) else None,
            supercategories=tuple(category.parent for category in categories),
            federated=federated,
            findings=self.found.findings(),
        )

    def read_images(self) -> list[_Image]:
        images = []
        for position, item in enumerate(self.document["images"]):
            place = f"images[{position}]"
            if not isinstance(item, dict):
                self.reject("image", "entry", "an object", f"{place} is {shown(item)}")
                continue
            name, image_id = text(item.get("file_name")), identifier(item.get("id"))
            if self.lvis and name is None and (url := text(item.get("coco_url"))):
                name = file_of_url(url)
            if name is None:
                self.reject("image", "file_name", "the name of a file", f"{place} has {_value(item, 'file_name')}")
            if image_id is None:
                self.lost_ids.add("image")
                self.reject("image", "id", "a whole number or a text", f"{name or place} has {_value(item, 'id')}")
                continue
            self.note_form("id", item["id"], exact=not isinstance(item["id"], float))
            images.append(_Image(image_id, name or place, self.read_size(item, name or place)))
        self.reject_repeated("image", [image.id for image in images], [image.name for image in images])
        return images

    def read_size(self, item: dict[str, Any], name: str) -> tuple[int, int]:
        height, width = whole_number(item.get("height")), whole_number(item.get("width"))
        if height is None or width is None or not (0 < height < MAX_NUMBER and 0 < width < MAX_NUMBER):
            self.found.add(
                "note", "size_unknown", "{count} image(s) have no valid size: read from the image files",
                f"{name}: width {_value(item, 'width')}, height {_value(item, 'height')}",
            )  # fmt: skip
            return 0, 0
        for field in ("height", "width"):
            self.note_form(field, item[field], exact=isinstance(item[field], int))
        return height, width

    def read_categories(self) -> list[_Category]:
        categories = []
        for position, item in enumerate(self.document["categories"]):
            place = f"categories[{position}]"
            if not isinstance(item, dict):
                self.reject("category", "entry", "an object", f"{place} is {shown(item)}")
                continue
            name = self.read_name(item.get("name"))
            if name is None:
                self.reject("category", "name", "a text", f"{place} has {_value(item, 'name')}")
            number = whole_number(item.get("id"))
            category_id = identifier(item.get("id")) if number is None else number
            if category_id is None:
                self.lost_ids.add("category")
                self.reject("category", "id", "a whole number", f"{shown(name or place)} has {_value(item, 'id')}")
                continue
            self.note_form("id", item["id"], exact=type(item["id"]) is type(category_id))
            parent = item.get("supercategory")
            categories.append(_Category(category_id, name or place, parent if isinstance(parent, str) else ""))
        if not self.document["categories"]:
            self.reject("category", "list", "at least one category", "it is empty")
        self.reject_repeated("category", [c.id for c in categories], [shown(c.name) for c in categories])
        if all(isinstance(category.id, int) for category in categories):
            categories.sort(key=lambda category: category.id)
        return self.with_unique_names(categories)

    def read_name(self, value: Any) -> str | None:
        number = None if isinstance(value, str) else whole_number(value)
        if number is not None or isinstance(value, float):
            name = str(value if number is None else number)
            self.found.add("note", "name_number", "{count} category name(s) are numbers: used as texts", name)
            return name
        return text(value)

    def with_unique_names(self, categories: list[_Category]) -> list[_Category]:
        """Without blanks around the names, if they differ then, too; equal names are told apart by their ids."""
        names = [category.name for category in categories]
        stripped = [name.strip() for name in names]
        if stripped != names and len(set(stripped)) == len(set(names)):
            for name in names:
                if name != name.strip():
                    self.found.add("note", "name_blanks", "{count} category name(s) without their blanks", shown(name))
            names = stripped
        taken: set[str] = set()
        result = []
        for category, name in zip(categories, names, strict=True):
            while name in taken:
                name = with_id(name, category.id)
            taken.add(name)
            result.append(category._replace(name=name))
        return result

    def read_boxes(self, images: list[_Image], categories: list[_Category]) -> list[_Box]:
        image_index, category_index = Index([i.id for i in images]), Index([c.id for c in categories])
        boxes = []
        for position, item in enumerate(self.document["annotations"]):
            if not isinstance(item, dict):
                self.reject("annotation", "entry", "an object", f"annotations[{position}] is {shown(item)}")
                continue
            image, has_image_form = image_index.find(item.get("image_id"))
            category, has_category_form = category_index.find(item.get("category_id"))
            place = f"annotation {shown(item['id'])}" if item.get("id") is not None else f"annotations[{position}]"
            if image is not None:
                place += f" of {images[image].name}"
            if category is not None:
                place += f", class {shown(categories[category].name)}"
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
                    "note", "area_invalid", "{count} area(s) are not finite numbers: computed from the boxes",
                    f"{place}: {_value(item, 'area')}",
                )  # fmt: skip
                size = np.nan
            if image is not None and category is not None:
                boxes.append(_Box(whole_number(item.get("id")), image, category, bbox, size, bool(is_crowd)))
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
            self.reject("annotation", "segmentation", "polygons or a mask, as there is no bbox", f"{place}: {error}")
            return NO_BOX
        if found is None:
            return NO_BOX
        message = "{count} annotation(s) have no bbox: computed from their polygons or masks"
        self.found.add("note", "bbox_of_segmentation", message, place)
        return found

    def read_federated(self, categories: list[_Category]) -> Federated:
        index = Index([category.id for category in categories])
        pairs: dict[str, list[list[int]]] = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for position, item in enumerate(self.document["images"]):
            for field, rows in pairs.items():
                ids = item.get(field) if isinstance(item, dict) else None
                found = [index.find(value)[0] for value in ids] if isinstance(ids, list) else [None]
                if None in found:
                    place = f"images[{position}] has {_value(item, field) if isinstance(item, dict) else shown(item)}"
                    self.reject("image", field, "a list of the ids of listed categories, as in LVIS", place)
                rows.append([value for value in found if value is not None])
        return Federated(*map(pairs_of, pairs.values()))

    def entry_numbers(self, boxes: list[_Box], images: list[_Image]) -> list[int]:
        """Numbers of the annotations: their ids, or their positions from 1 if ids are missing or repeated."""
        numbers = [box.number for box in boxes if box.number is not None and abs(box.number) < 2**63]
        repeated = [number for number, count in Counter(numbers).items() if count > 1]
        if len(numbers) == len(boxes) and not repeated:
            return numbers
        if len(numbers) < len(boxes):
            for box in boxes:
                if box.number is None:
                    message = "{count} annotation(s) have no whole number as id: all are numbered from 1"
                    self.found.add("note", "annotation_id_missing", message, f"in {images[box.image].name}")
        for number in repeated:
            message = "{count} annotation id(s) are repeated: all annotations are numbered from 1"
            self.found.add("warning", "annotation_id_twice", message, f"id {number}")
        return list(range(1, len(boxes) + 1))

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
                    "error", f"{entry}_id_twice", message, f"id {shown(entry_id)}: {first[entry_id]} and {name}"
                )
            first.setdefault(entry_id, name)

    def note_form(self, field: str, value: Any, *, exact: bool) -> None:
        if not exact:
            message = "{count} whole number(s) are written as text or with a decimal point"
            self.found.add("note", "number_form", message, f"{field} {shown(value)}")


def _value(item: dict[str, Any], field: str) -> str:
    return shown(item[field]) if field in item else "missing"
