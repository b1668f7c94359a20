"""COCO annotation and results formats: read annotation files, and convert detections to results."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from retinanet.config import DataSource
from retinanet.formats.annotations import Annotations
from retinanet.formats.coco_json import read_document

if TYPE_CHECKING:
    from retinanet.structures import Detections


def read_coco(source: DataSource) -> Annotations:
    """Read a COCO annotation file; categories are ordered by id.

    Raises:
        InputError: the file is missing or malformed.
    """
    document = read_document(source.annotations)
    images, annotations = document["images"], document["annotations"]
    categories = sorted(document["categories"], key=lambda category: category["id"])
    index_of = {image["id"]: index for index, image in enumerate(images)}
    category_of = {category["id"]: index for index, category in enumerate(categories)}
    return Annotations(
        source=source.annotations,
        image_folder=source.images,
        file_names=tuple(image["file_name"] for image in images),
        image_ids=tuple(image["id"] for image in images),
        sizes=np.array([_size(image) for image in images], dtype=np.int64).reshape(-1, 2),
        image_index=np.array([index_of[entry["image_id"]] for entry in annotations], dtype=np.int64),
        boxes_xywh=np.array([entry["bbox"] for entry in annotations], dtype=np.float64).reshape(-1, 4),
        areas=np.array([entry.get("area") for entry in annotations], dtype=np.float64),  # None becomes NaN
        category_index=np.array([category_of[entry["category_id"]] for entry in annotations], dtype=np.int64),
        is_crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in annotations], dtype=bool),
        entry="annotation",
        entry_numbers=np.array([entry["id"] for entry in annotations], dtype=np.int64),
        category_names=tuple(category["name"] for category in categories),
        category_ids=tuple(category["id"] for category in categories),
    )


def coco_results(
    detections: Iterable[tuple[int | str, "Detections"]], category_ids: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Convert detections to the COCO results format, ready to be written to a file.

    Args:
        detections: pairs of an image id and the detections on that image.
        category_ids: the category id of each label.

    Returns:
        One result per detection; its bbox is [x, y, width, height].
    """
    return [result for image_id, found in detections for result in found.to_coco(image_id, category_ids)]


def _size(image: dict[str, Any]) -> tuple[int, int]:
    if image.get("height") is not None and image.get("width") is not None:
        return image["height"], image["width"]
    return 0, 0
