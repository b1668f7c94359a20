"""COCO annotation files -> a checked data set with labels 0..K-1. The only place that knows a file's category ids."""

import difflib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retinanet.config import DataSource, MergedClass
from retinanet.errors import InputError
from retinanet.formats.image import read_header
from retinanet.structures import Batch

log = logging.getLogger(__name__)

LISTED = 5  # examples named in a message
MAX_NUMBER = 1e9  # pixels or their squares; what is beyond is a mistake, and would overflow
OUTSIDE_TOLERANCE = 1.0  # pixels; annotation tools round outwards by that much


class Record(NamedTuple):
    """One image and its ground truth in pixels of the image as annotated."""

    path: str
    image_id: int  # the file's own, or a new one where several files are joined
    height: int
    width: int
    boxes: np.ndarray  # (N, 4) float32, corners
    labels: np.ndarray  # (N,) int64
    is_crowd: np.ndarray  # (N,) bool


class CocoData(NamedTuple):
    """A checked data set."""

    records: list[Record]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # of each label in results and evaluation
    ground_truth: dict[str, Any]  # COCO form, unusable boxes included, for evaluation

    def image_ids(self, batches: Iterable[Batch]) -> list[int | str]:
        """The ids of the images in some batches of this set, in their order."""
        return [self.records[index].image_id for batch in batches for index in batch.image_indices]


class Classes(NamedTuple):
    """Names in the order of labels, and which category names of the files become which label."""

    names: tuple[str, ...]
    label_of: dict[str, int]


def load_coco(
    sources: tuple[DataSource, ...],
    *,
    classes: tuple[str | MergedClass, ...] | None = None,
    like: tuple[str, ...] | None = None,
    keep_empty: bool = True,
    strict: bool = False,
    max_pixels: int = 100_000_000,
    key: str = "data",
) -> CocoData:
    """Read and check annotation files.

    Args:
        sources: one or several files; joined where several.
        classes: choose, order or merge categories by name. None takes all of the first file, ordered by id.
        like: class names that must come out, those of the training set or of a checkpoint.
        keep_empty: whether images without any box stay.
        strict: refuse unusable boxes in place of dropping them.
        max_pixels: for images whose size the file does not give.
        key: what the configuration calls these sources, for messages.

    Raises:
        InputError: a missing or malformed file, an unknown class, a missing image; each with what to do.
    """
    if not sources:
        raise InputError(f"{key}: no data given; set {key}.images=FOLDER {key}.annotations=FILE")
    documents = [_read_document(source.annotations) for source in sources]
    chosen = _choose_classes(classes, documents, sources, like, key)

    problems = _Problems(strict)
    records: list[Record] = []
    kept_annotations: list[dict[str, Any]] = []
    category_ids = _category_ids(chosen, documents)
    for source, document in zip(sources, documents, strict=True):
        names = {category["id"]: category["name"] for category in document["categories"]}
        by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        folder = Path(source.images)
        if not folder.is_dir():
            raise InputError(f"{key}.images: {folder} is not a folder; set it to the folder of the images")
        missing = []
        for image in document["images"]:
            path = _inside(folder, image["file_name"], source.annotations)
            if not os.path.isfile(path):  # unlike the method of Path, without an error for names too long for a file
                missing.append(image["file_name"])
                continue
            height, width = _size(image, path, max_pixels)
            image_id = image["id"] if len(sources) == 1 else len(records) + 1
            annotations = [a for a in by_image[image["id"]] if names[a["category_id"]] in chosen.label_of]
            record = _record(path, image_id, height, width, annotations, names, chosen, problems, source.annotations)
            if not keep_empty and len(record.boxes) == 0:
                problems.empty += 1
                continue
            records.append(record)
            for annotation in annotations:
                label = chosen.label_of[names[annotation["category_id"]]]
                kept_annotations.append(
                    _for_evaluation(annotation, image_id, category_ids[label], len(kept_annotations))
                )
        if missing:
            raise InputError(
                f"{source.annotations}: {len(missing)} of {len(document['images'])} images are not in {folder}, "
                f"first {missing[:LISTED]}; correct {key}.images or the file names"
            )
    problems.report(", ".join(source.annotations for source in sources))
    if not records:
        raise InputError(f"{key}: no image is left in {sources[0].annotations}; see the reasons above")
    ground_truth = {
        "info": {},
        "images": [
            {"id": r.image_id, "file_name": Path(r.path).name, "height": r.height, "width": r.width} for r in records
        ],
        "annotations": kept_annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(category_ids, chosen.names, strict=True)],
    }
    return CocoData(records, chosen.names, category_ids, ground_truth)


class _Problems:
    """Boxes that cannot be used: counted, listed once, or refused."""

    def __init__(self, strict: bool):
        self.strict = strict
        self.found: dict[str, list[Any]] = {}
        self.empty = 0

    def add(self, kind: str, annotation: dict[str, Any], file: str, size: tuple[int, int]) -> None:
        if self.strict:
            raise InputError(
                f"{file}: annotation {annotation['id']} of image {annotation['image_id']} ({size[1]}x{size[0]}) has "
                f"bbox {annotation['bbox']}: {kind}; expected [x, y, width, height] with an area, inside the image; "
                "correct the file, or set data.strict: false to drop or cut such boxes"
            )
        self.found.setdefault(kind, []).append(annotation["id"])

    def report(self, source: str) -> None:
        for kind, ids in self.found.items():
            listed = ", ".join(map(str, ids[:LISTED])) + (", ..." if len(ids) > LISTED else "")
            log.warning("%s: %d box(es) %s (annotation %s)", source, len(ids), kind, listed)
        if self.empty:
            log.warning("%s: %d image(s) without boxes left out (data.keep_empty: false)", source, self.empty)


def _record(
    path: Path,
    image_id: int,
    height: int,
    width: int,
    annotations: list[dict[str, Any]],
    names: dict[int, str],
    classes: Classes,
    problems: _Problems,
    file: str,
) -> Record:
    boxes, labels, is_crowd = [], [], []
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        cut = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
        if w <= 0 or h <= 0:
            kind = "inverted, dropped" if w < 0 or h < 0 else "without area, dropped"
            problems.add(kind, annotation, file, (height, width))
            continue
        if cut[2] <= cut[0] or cut[3] <= cut[1]:
            problems.add("outside the image, dropped", annotation, file, (height, width))
            continue
        if max(cut[0] - x, cut[1] - y, x + w - cut[2], y + h - cut[3]) > OUTSIDE_TOLERANCE:
            problems.add("partly outside the image, cut", annotation, file, (height, width))
        boxes.append(cut)
        labels.append(classes.label_of[names[annotation["category_id"]]])
        is_crowd.append(bool(annotation.get("iscrowd", 0)))
    return Record(
        str(path),
        image_id,
        height,
        width,
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(is_crowd, dtype=bool),
    )


def _for_evaluation(annotation: dict[str, Any], image_id: int, category_id: int, count: int) -> dict[str, Any]:
    x, y, w, h = annotation["bbox"]
    return {
        "id": count + 1,  # pycocotools never counts an annotation with id 0 as found
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": w * h if annotation.get("area") is None else annotation["area"],
        "iscrowd": int(bool(annotation.get("iscrowd", 0))),
    }


def _choose_classes(
    classes: tuple[str | MergedClass, ...] | None,
    documents: list[dict[str, Any]],
    sources: tuple[DataSource, ...],
    like: tuple[str, ...] | None,
    key: str,
) -> Classes:
    in_file = [[c["name"] for c in sorted(d["categories"], key=lambda c: c["id"])] for d in documents]
    if classes is None:
        names = like or tuple(in_file[0])
        groups = {name: (name,) for name in names}
        for source, found in zip(sources, in_file, strict=True):
            if set(found) != set(names):
                lacking, extra = sorted(set(names) - set(found)), sorted(set(found) - set(names))
                raise InputError(
                    f"{key}: the categories of {source.annotations} do not match the classes {list(names)[:LISTED]}"
                    f"{'...' if len(names) > LISTED else ''}: lacking {lacking[:LISTED]}, "
                    f"in addition {extra[:LISTED]}; name the classes to use with data.classes"
                )
    else:
        groups = dict((c, (c,)) if isinstance(c, str) else (c.name, c.merge) for c in classes)
        if len(groups) != len(classes):
            raise InputError(f"data.classes: names a class twice: {[c for c in classes]}")
        for source, found in zip(sources, in_file, strict=True):
            for member in (member for group in groups.values() for member in group):
                if member not in found:
                    near = difflib.get_close_matches(member, found, 1)
                    hint = f"did you mean {near[0]!r}?" if near else f"it has {found[: 2 * LISTED]}"
                    raise InputError(f"data.classes: {member!r} is no category of {source.annotations}; {hint}")
        if like is not None and tuple(groups) != like:
            raise InputError(f"data.classes: gives {list(groups)}, but the model was made for {list(like)}")
    label_of: dict[str, int] = {}
    for label, members in enumerate(groups.values()):
        for member in members:
            if member in label_of:
                raise InputError(f"data.classes: {member!r} stands in two classes; an annotation can have one label")
            label_of[member] = label
    return Classes(tuple(groups), label_of)


def _category_ids(classes: Classes, documents: list[dict[str, Any]]) -> tuple[int, ...]:
    """The file's own ids where every label is one category of one file, so that results can be used with that file."""
    if len(documents) == 1 and len(classes.label_of) == len(classes.names):
        by_name = {category["name"]: category["id"] for category in documents[0]["categories"]}
        return tuple(by_name[member] for member in classes.label_of)  # in the order of labels
    return tuple(range(1, len(classes.names) + 1))


def _size(image: dict[str, Any], path: Path, max_pixels: int) -> tuple[int, int]:
    if image.get("height") is not None and image.get("width") is not None:
        return image["height"], image["width"]
    header = read_header(path, max_pixels=max_pixels)
    return header.height, header.width


def _inside(folder: Path, name: str, file: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{file}: file_name {name!r} leaves the folder {folder}; give names inside it")
    return path


def _read_document(file: str) -> dict[str, Any]:
    """An annotation file whose parts have the types and the references that the rest relies on."""
    try:
        document = json.loads(Path(file).read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; set data.*.annotations to a COCO file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(document.get(k), list) for k in _FIELDS):
        found = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{file}: is not in COCO form: expected lists {', '.join(_FIELDS)}; found {found}")
    for part, fields in _FIELDS.items():
        for position, item in enumerate(document[part]):
            for field, check in fields.items():
                if not isinstance(item, dict) or not check(item.get(field)):
                    given = item.get(field) if isinstance(item, dict) else item
                    found = "missing" if isinstance(item, dict) and field not in item else repr(given)[:80]
                    raise InputError(f"{file}: {part}[{position}].{field} is {found}, expected {_EXPECTED[field]}")
        repeated = [value for value, count in Counter(item["id"] for item in document[part]).items() if count > 1]
        if repeated:
            raise InputError(f"{file}: {part}: id {repeated[0]} stands twice; ids must be unique")
    names = Counter(category["name"] for category in document["categories"])
    if not names or max(names.values()) > 1:
        raise InputError(f"{file}: categories are {list(names)}, expected at least one and every name once")
    image_ids = {image["id"] for image in document["images"]}
    category_ids = {category["id"] for category in document["categories"]}
    for annotation in document["annotations"]:
        for field, known in (("image_id", image_ids), ("category_id", category_ids)):
            if annotation[field] not in known:
                raise InputError(
                    f"{file}: annotation {annotation['id']} has {field} {annotation[field]}, which is not listed"
                )
    return document


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_length(value: Any) -> bool:
    return value is None or (_is_id(value) and value > 0)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_number(v) for v in value)


def _is_number(value: Any) -> bool:
    # The comparison is false for nan, and unlike math.isfinite takes a whole number of any length.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _is_area(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_flag(value: Any) -> bool:
    return value in (None, 0, 1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


_FIELDS = {
    "images": {"id": _is_id, "file_name": _is_text, "height": _is_length, "width": _is_length},
    "annotations": {
        "id": _is_id,
        "image_id": _is_id,
        "category_id": _is_id,
        "bbox": _is_box,
        "area": _is_area,
        "iscrowd": _is_flag,
    },
    "categories": {"id": _is_id, "name": _is_text},
}
_EXPECTED = {
    "id": "a whole number",
    "image_id": "the id of a listed image",
    "category_id": "the id of a listed category",
    "bbox": "[x, y, width, height], four finite numbers",
    "area": "a finite number, or nothing",
    "iscrowd": "0 or 1",
    "file_name": "a file name",
    "name": "a name",
    "height": "a whole number of pixels",
    "width": "a whole number of pixels",
}
