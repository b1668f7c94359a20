"""The blood cell dataset (BCCD) in Pascal VOC and COCO format; tests that need it are skipped if it is missing."""

import os
from pathlib import Path

import pytest

from retinanet.config import DataSource
from retinanet.formats.dataset import Dataset
from retinanet.formats.read import read_dataset

REPO = Path(__file__).resolve().parents[2]
BLOOD_CELLS = Path(os.environ.get("RETINANET_DATA", REPO.parent / "shared" / "data")) / "bccd"
BLOOD_CELL_SPLITS = ("train", "val", "test")
needs_blood_cells = pytest.mark.skipif(
    not BLOOD_CELLS.is_dir(), reason=f"no dataset in {BLOOD_CELLS}; set RETINANET_DATA to the folder that contains bccd"
)


def blood_cells(split: str) -> Dataset:
    """A split, read from its COCO file."""
    file, images = BLOOD_CELLS / f"instances_{split}.json", BLOOD_CELLS / "JPEGImages"
    return read_dataset((DataSource(annotations=str(file), images=str(images), format="coco"),))
