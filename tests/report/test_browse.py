"""The page to browse images: its data, self-containment, and hostile names."""

import base64
import json
import re

import numpy as np
import pytest
import torch

from retinanet.evaluation.detection_kinds import KINDS
from retinanet.report.browse import CROWD, collect_detections, collect_splits, page_data, render_browser
from retinanet.structures import Detections
from tests.helpers.datasets import dataset_of, image_record

HOSTILE = "</script><script>alert(1)</script>\u202e"
BOX, OTHER = (0, 0, 20, 20), (30, 0, 50, 20)


def array(text: str, dtype: str) -> list[float]:
    return np.frombuffer(base64.b64decode(text), dtype).tolist()


@pytest.fixture
def dataset():
    first = image_record("folder/a.png", boxes=[BOX, OTHER, (0, 30, 60, 45)], labels=[0, 1, 0], is_crowd=[0, 0, 1])
    return dataset_of(
        [first, image_record(f"folder/sub/{HOSTILE}.png", boxes=[], image_id=2)], class_names=("cat", HOSTILE)
    )


@pytest.fixture
def found():
    boxes = torch.tensor([[0.0, 0, 20, 19], [70, 0, 80, 10], [30, 0, 50, 20]])
    return {0: Detections(boxes, torch.tensor([0.5, 0.75, 0.25]), torch.tensor([0, 0, 0]))}


def test_data_of_the_page_are_the_arrays_of_the_dataset_and_the_detections(dataset, found):
    data = page_data(collect_detections("title", dataset, found), None)
    assert json.loads(json.dumps(data)) is not None
    assert data["names"][0] == "a.png" and data["names"][1].startswith("sub/")
    assert array(data["sizes"], "<i4") == [48, 64, 48, 64]
    assert array(data["objects"]["start"], "<i4") == [0, 3, 3]
    assert array(data["objects"]["boxes"], "<f4")[4:8] == list(OTHER)
    # The cat is found with score 0.5, the other object is not, and the third box is a crowd region.
    assert array(data["objects"]["scores"], "<f4") == [0.5, 0, CROWD]
    detections = data["detections"]
    assert array(detections["start"], "<i4") == [0, 3, 3]
    assert array(detections["scores"], "<f4") == [0.75, 0.5, 0.25]  # highest first
    kinds = [KINDS[kind] for kind in array(detections["kinds"], "<i4")]
    assert kinds == ["background", "correct", "classification"]
    assert array(detections["boxes"], "<f4")[:4] == [70, 0, 80, 10]


def test_splits_and_their_classes_are_merged():
    first = dataset_of([image_record("a.png", labels=[0])], class_names=("cat",))
    second = dataset_of([image_record("b.png", labels=[0]), image_record("c.png", labels=[1], image_id=2)],
                        class_names=("dog", "cat"))  # fmt: skip
    collection = collect_splits("title", {"train": first, "val": second})
    assert collection.splits == ("train", "val") and collection.split_of.tolist() == [0, 1, 1]
    assert collection.dataset.class_names == ("cat", "dog")
    assert collection.dataset.labels.tolist() == [0, 1, 0]
    assert collect_splits("title", {"all": first}).splits == ()


def test_images_of_a_page_are_spread_over_the_dataset():
    data = dataset_of([image_record(f"{number}.png", image_id=number) for number in range(1, 12)])
    collection = collect_splits("title", {"all": data})
    assert collection.spread_out(3) == [0, 5, 10]
    assert collection.spread_out(100) == list(range(11))


def test_names_cannot_break_out_of_the_data_of_the_page(dataset, found):
    page = render_browser(collect_detections(HOSTILE, dataset, found), {0: "data:image/jpeg;base64,AAAA"})
    assert HOSTILE not in page and "alert(1)</script>" not in page and "\u202e" not in page
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(block)["classes"][1] == HOSTILE.replace("\u202e", "\\u202e")
    assert page.count("<script") == 2


def test_page_without_server_needs_no_other_file(dataset, found):
    page = render_browser(collect_detections("title", dataset, found), {0: "data:image/jpeg;base64,AAAA"})
    assert "<link" not in page and "@import" not in page
    assert "default-src 'none'; img-src data:;" in page
    assert re.findall(r"https?://[^\"' <]+", page) == ["http://www.w3.org/2000/svg"]
    assert "img-src 'self';" in render_browser(collect_detections("title", dataset, found))


def test_dataset_without_detections_has_no_filters_for_them(dataset):
    page = render_browser(collect_splits("title", {"all": dataset}))
    assert 'name="label"' in page and 'name="kind"' not in page and 'name="split"' not in page
    assert 'name="split"' in render_browser(collect_splits("title", {"train": dataset, "val": dataset}))
