"""COCO documents, their files, and the results and messages of `read_dataset`."""

from pathlib import Path

import pytest

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset, ImageRecord
from retinanet.formats.read import read_dataset

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 5, "name": "cow"}]  # by id: cat, cow, dog


def image(number, *, width=20, height=10, **fields):
    """An image entry whose file is named after its id."""
    return {"id": number, "file_name": f"{number}.png", "width": width, "height": height, **fields}


def box(number, image_id, bbox, category_id=3, **fields):
    """An annotation entry."""
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox, **fields}


def document(images, annotations=(), categories=CATEGORIES):
    """A COCO document."""
    return {"images": list(images), "annotations": list(annotations), "categories": list(categories)}


def error_of(*sources, **options) -> str:
    """Message of the InputError that reading raises for a single problem, without the folder of the files."""
    (message,) = errors_of(*sources, **options)
    return message


def errors_of(*sources, **options) -> list[str]:
    """Lines of the InputError that reading raises, without the folder of the annotation files."""
    with pytest.raises(InputError) as caught:
        read_dataset(sources, **options)
    message = str(caught.value)
    message = message.replace(f"{Path(sources[0].annotations).parent}/", "") if sources else message
    return [line.strip() for line in message.split("\n")]


def warnings_in(caplog) -> list[str]:
    """Messages of the logged warnings."""
    return messages_in(caplog, "WARNING")


def messages_in(caplog, level: str) -> list[str]:
    """Logged messages of one level, without the line that names the detected format."""
    found = ("retinanet.formats.read", "INFO")
    records = (record for record in caplog.records if (record.name, record.levelname) != found)
    return [record.getMessage() for record in records if record.levelname == level]


def notes_in(caplog) -> list[str]:
    """Messages of the logged findings that are notes."""
    findings = [record for record in caplog.records if record.name == "retinanet.formats.findings"]
    return [record.getMessage() for record in findings if record.levelname == "INFO"]


def images_of(dataset: Dataset) -> list[ImageRecord]:
    """All images of a dataset."""
    return [dataset.image(index) for index in range(len(dataset))]


def annotations_of(dataset: Dataset) -> list[dict]:
    """The boxes of a dataset as COCO annotations with the ids of the dataset."""
    return [
        {
            "image_id": dataset.image_ids[index],
            "category_id": dataset.category_ids[dataset.labels[row]],
            "bbox": dataset.boxes_xywh[row].tolist(),
            "area": float(dataset.areas[row]),
            "iscrowd": int(dataset.is_crowd[row]),
        }
        for index in range(len(dataset))
        for row in range(dataset.box_start[index], dataset.box_start[index + 1])
    ]


def label_by_left_edge(dataset: Dataset) -> dict[int, int]:
    """Label of each box by its left edge."""
    return {int(x): int(label) for x, label in zip(dataset.boxes[:, 0], dataset.labels, strict=True)}
