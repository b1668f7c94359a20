import json

import numpy as np
import pytest
from hypothesis import given, settings

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.coco.writer import write_coco
from retinanet.formats.read import read_dataset
from tests.helpers.dataset_folders import dataset_of, datasets, differences, place_images


def test_file(tmp_path):
    dataset = dataset_of(
        "/x/b.png", "/x/sub/a.png", image_ids=("b", 7), category_ids=(3,), boxes_xywh=np.array([[1, 2.5, 3, 4.0]] * 2),
        areas=np.array([12, 5.5]), is_crowd=np.array([False, True]),
    )  # fmt: skip
    assert write_coco(dataset, tmp_path, split="val") == {}
    size = {"height": 20, "width": 40}
    box = {"category_id": 3, "bbox": [1, 2.5, 3, 4]}
    assert json.loads((tmp_path / "annotations/instances_val.json").read_text()) == {
        "images": [{"id": "b", "file_name": "b.png", **size}, {"id": 7, "file_name": "sub/a.png", **size}],
        "annotations": [
            {"id": 1, "image_id": "b", "area": 12, "iscrowd": 0, **box},
            {"id": 2, "image_id": 7, "area": 5.5, "iscrowd": 1, **box},
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    with pytest.raises(InputError, match=r"instances_val\.json: exists and will not be overwritten"):
        write_coco(dataset, tmp_path, split="val")


@given(dataset=datasets())
@settings(max_examples=15, deadline=None)
def test_generated_datasets_are_read_back_bit_for_bit(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    for split in ("train", "val"):
        assert write_coco(dataset, folder, split=split) == {}
        place_images(dataset, folder / split)
    for split in ("train", "val"):
        data = read_dataset((DataSource(annotations=str(folder)),), key=f"data.{split}")
        assert differences(data, dataset) == []
        assert data.paths == tuple(path.replace("/images", f"{folder}/{split}") for path in dataset.paths)
