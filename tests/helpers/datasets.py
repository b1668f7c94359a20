"""Datasets built directly from arrays or COCO dicts, without files."""

from collections.abc import Sequence

import numpy as np

from retinanet.formats.dataset import Dataset, ImageRecord, start_of_each


def image_record(
    path: object = "image.png",
    height: int = 48,
    width: int = 64,
    boxes: Sequence[Sequence[float]] = ((1, 1, 5, 4),),
    *,
    labels: Sequence[int] | None = None,
    is_crowd: Sequence[bool] | None = None,
    image_id: int | str = 1,
) -> ImageRecord:
    """The record of one image; by default, all its boxes are objects with label 0."""
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(
        path=str(path),
        image_id=image_id,
        height=height,
        width=width,
        boxes=corners,
        labels=np.zeros(len(corners), np.int64) if labels is None else np.array(labels, np.int64),
        is_crowd=np.zeros(len(corners), bool) if is_crowd is None else np.array(is_crowd, bool),
    )


def dataset_of(
    images: Sequence[ImageRecord],
    *,
    class_names: tuple[str, ...] = ("object",),
    category_ids: tuple[int, ...] | None = None,
) -> Dataset:
    """A dataset with some images."""
    boxes_xywh = np.concatenate([image.boxes for image in images]).astype(np.float64)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    return Dataset(
        paths=tuple(image.path for image in images),
        image_ids=tuple(image.image_id for image in images),
        sizes=np.array([(image.height, image.width) for image in images], dtype=np.int64),
        box_start=start_of_each(np.array([len(image.boxes) for image in images])),
        boxes_xywh=boxes_xywh,
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        labels=np.concatenate([image.labels for image in images]),
        is_crowd=np.concatenate([image.is_crowd for image in images]),
        class_names=class_names,
        category_ids=category_ids or tuple(range(1, len(class_names) + 1)),
    )


def dataset_from_coco(document: dict) -> Dataset:
    """A dataset from a COCO document, without checks, for evaluation, which needs no files."""
    ids = [image["id"] for image in document["images"]]
    category_ids = tuple(category["id"] for category in document["categories"])
    annotations = sorted(document["annotations"], key=lambda annotation: ids.index(annotation["image_id"]))
    image_index = np.array([ids.index(annotation["image_id"]) for annotation in annotations], dtype=np.int64)
    return Dataset(
        paths=tuple(f"{number}.png" for number in ids),
        image_ids=tuple(ids),
        sizes=np.array([(image["height"], image["width"]) for image in document["images"]], dtype=np.int64),
        box_start=start_of_each(np.bincount(image_index, minlength=len(ids))),
        boxes_xywh=np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4),
        areas=np.array([a["area"] for a in annotations], dtype=np.float64),
        labels=np.array([category_ids.index(a["category_id"]) for a in annotations], dtype=np.int64),
        is_crowd=np.array([a["iscrowd"] for a in annotations], dtype=bool),
        class_names=tuple(category["name"] for category in document["categories"]),
        category_ids=category_ids,
    )
