"""YOLO datasets of a few images, and the results or errors of reading them."""

from pathlib import Path

import pytest

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.annotations import Annotations
from retinanet.formats.yolo.reader import read_yolo
from tests.helpers.dataset_folders import write_files

NAMES = "names: [cat, dog]\n"
# In a 40 x 20 image: centre (10, 5) and size 8 x 4, so left 6 and top 3.
CAT = "0 0.25 0.25 0.2 0.2\n"
DOG = "1 0.5 0.5 0.1 0.5\n"


def one_image(folder: Path, label: str | bytes, yaml: str = NAMES) -> Path:
    """Write a dataset of one image and its label file, and return the folder."""
    return write_files(folder, {"data.yaml": yaml, "images/a.png": None, "labels/a.txt": label})


def yolo_source(folder, **fields) -> DataSource:
    """A source in YOLO format."""
    return DataSource(annotations=str(folder), format="yolo", **fields)


def read(folder, part="train", **fields) -> Annotations:
    """The dataset that the reader returns."""
    return read_yolo(yolo_source(folder, **fields), part)


def message_of(folder, part="train", **fields) -> str:
    """Message of the InputError that reading raises, with paths relative to the folder."""
    with pytest.raises(InputError) as caught:
        read(folder, part, **fields)
    message = str(caught.value)
    return message.replace(f"{folder}/", "").replace(str(folder), "FOLDER")
