"""Read detections from a file in the COCO results format."""

import logging
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import torch

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.formats.short_repr import short
from retinanet.formats.text_files.json_file import load_json
from retinanet.structures import Detections

log = logging.getLogger(__name__)

MAX_NUMBER = 1e9  # of pixels; areas of such boxes are still finite in float32


def read_results(file: Path, dataset: Dataset) -> dict[int, Detections]:
    """Read the detections on a dataset, keyed by image index, each with the highest score first.

    The file is a list of COCO results, or the document that `retinanet predict` writes, with images and annotations.
    The image of an entry is given by its file name, or else by its `image_id`. Entries of categories that the dataset
    lacks are ignored with a warning.

    Raises:
        InputError: the file is not a list of results, an entry is for an image that the dataset lacks, or its score is
            not in 0..1.
    """
    entries = _entries(load_json(str(file)))
    if not isinstance(entries, list):
        raise InputError(
            f"{file}: found {type(entries).__name__}, expected a list of COCO results such as detections.json; for a "
            "model, pass its checkpoint or run folder"
        )
    index_of_id = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
    index_of_name = _unique_names(dataset)
    label_of = {category_id: label for label, category_id in enumerate(dataset.category_ids)}
    rows: dict[int, list[tuple[float, int, list[float]]]] = {}
    unknown: Counter[Any] = Counter()
    for number, entry in enumerate(entries):
        where = f"{file}: entry {number}"
        index = _image_of(entry, index_of_id, index_of_name, where)
        score, box = _score_and_box(entry, where)
        category = entry.get("category_id")
        if not isinstance(category, int) or category not in label_of:
            unknown[str(category)] += 1
            continue
        rows.setdefault(index, []).append((score, label_of[category], box))
    if unknown:
        listed = ", ".join(list(unknown)[:5])
        log.warning("%s: %d detections ignored: the dataset has no category %s", file, unknown.total(), listed)
    return {index: _detections(found) for index, found in rows.items()}


def _entries(document: Any) -> Any:
    """The results in a COCO document, each with the file name of its image; anything else is returned unchanged."""
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), list) for key in ("images", "annotations")
    ):
        return document
    images = [image for image in document["images"] if isinstance(image, dict)]
    name_of = {str(image.get("id")): image.get("file_name") for image in images}
    return [
        {**entry, "file_name": name_of.get(str(entry.get("image_id")))} if isinstance(entry, dict) else entry
        for entry in document["annotations"]
    ]


def _unique_names(dataset: Dataset) -> dict[str, int]:
    """Map each file name that occurs only once to the index of its image."""
    names = [PurePath(path).name for path in dataset.paths]
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def _image_of(entry: Any, index_of_id: dict[int | str, int], index_of_name: dict[str, int], where: str) -> int:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: found {short(entry)}, expected image_id, category_id, bbox, score")
    name = entry.get("file_name")
    if isinstance(name, str) and PurePath(name).name in index_of_name:
        return index_of_name[PurePath(name).name]
    image_id = entry.get("image_id")
    if name is None and isinstance(image_id, int | str) and image_id in index_of_id:
        return index_of_id[image_id]
    named = f"image_id {short(image_id)}" if name is None else f"file_name {short(name)}"
    raise InputError(
        f"{where}: {named} is not an image of the dataset, whose ids look like {next(iter(index_of_id))!r}; use the "
        "annotations of the images in which these objects were detected"
    )


def _score_and_box(entry: dict[str, Any], where: str) -> tuple[float, list[float]]:
    """Score and corners of an entry."""
    score, box = entry.get("score"), entry.get("bbox")
    if not _is_number(score) or not 0 <= score <= 1:
        raise InputError(f"{where}: score is {short(score)}, expected a number in 0..1")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise InputError(f"{where}: bbox is {short(box)}, expected [x, y, width, height]")
    left, top, width, height = box
    return float(score), [left, top, left + width, top + height]


def _is_number(value: Any) -> bool:
    """Whether a value is a usable number: neither NaN nor too large for float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _detections(found: list[tuple[float, int, list[float]]]) -> Detections:
    found = sorted(found, key=lambda row: -row[0])  # stable
    scores, labels, boxes = zip(*found, strict=True)
    return Detections(torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels))
