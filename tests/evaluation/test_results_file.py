"""Detections in the COCO results format: written files are read back, and errors name the fault."""

import json

import pytest
import torch

from retinanet.errors import InputError
from retinanet.evaluation.results_file import read_results
from retinanet.formats.coco.results import coco_results
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record

ENTRY = {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.fixture
def data():
    images = [image_record("a/x.png", image_id=5), image_record("b/y.png", image_id="z"), image_record("c/y.png")]
    return dataset_of(images, class_names=("cat", "dog"), category_ids=(7, 3))


def read(entries, data, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(entries))
    return read_results(file, data)


def test_written_detections_are_read_back(data, tmp_path):
    detections = {
        0: found([10.25, 1 / 3, 40, 40.7], [60, 60, 20, 20], scores=[0.9, 1 / 7], labels=[1, 0]),
        1: found([1, 2, 3, 4], scores=[0.3], labels=[1]),
    }
    by_id = ((data.image_ids[index], of_image) for index, of_image in detections.items())
    read_back = read(coco_results(by_id, data.category_ids), data, tmp_path)
    assert read_back.keys() == detections.keys()
    for index, expected in detections.items():
        assert torch.equal(read_back[index].boxes, expected.boxes)
        assert torch.equal(read_back[index].scores, expected.scores)
        assert torch.equal(read_back[index].labels, expected.labels)


def test_detections_are_sorted_by_score_and_ties_keep_their_order(data, tmp_path):
    entries = [ENTRY | {"score": score, "bbox": [n, 0, 1, 1]} for n, score in enumerate([0.5, 0.75, 0.5])]
    detections = read(entries, data, tmp_path)[0]
    assert detections.scores.tolist() == [0.75, 0.5, 0.5] and detections.boxes[:, 0].tolist() == [1, 0, 2]


def test_file_name_takes_precedence_over_image_id(data, tmp_path):
    assert list(read([ENTRY | {"image_id": 1, "file_name": "elsewhere/x.png"}], data, tmp_path)) == [0]
    # Two images are named y.png.
    with pytest.raises(InputError, match=r"entry 0: file_name 'y\.png' is not an image of the dataset"):
        read([ENTRY | {"file_name": "y.png"}], data, tmp_path)


def test_categories_that_the_dataset_lacks_are_ignored_with_a_warning(data, tmp_path, caplog):
    assert list(read([ENTRY, ENTRY | {"category_id": 4}], data, tmp_path)) == [0]
    assert "1 detections ignored: the dataset has no category 4" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 6}, "entry 0: image_id 6 is not an image of the dataset, whose ids look like 5; use the "),
        ({"image_id": [5]}, r"entry 0: image_id \[5\] is not an image of the dataset"),
        ({"score": "high"}, "entry 0: score is 'high', expected a number in 0..1"),
        ({"score": float("nan")}, "entry 0: score is nan"),
        ({"score": 87.5}, "entry 0: score is 87.5, expected a number in 0..1"),
        ({"score": -0.1}, "entry 0: score is -0.1"),
        ({"score": 10**400}, "entry 0: score is 1000"),
        ({"bbox": [0, 0, 10**400, 1]}, "entry 0: bbox is"),
        ({"bbox": [0, 0, 1e300, 1]}, "entry 0: bbox is"),
        ({"bbox": [1, 2, 3]}, r"entry 0: bbox is \[1, 2, 3\], expected \[x, y, width, height\]"),
        ({"bbox": [1, 2, True, 3]}, "entry 0: bbox is"),
    ],
)
def test_fault_of_an_entry_is_reported(data, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read([ENTRY | change], data, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"annotations": []}, "found dict, expected a list of COCO results"), ([3], "entry 0: found 3, expected")],
)
def test_file_with_other_content_is_rejected(data, tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(content, data, tmp_path)


def test_file_without_detections_is_read(data, tmp_path):
    assert read([], data, tmp_path) == {}


def test_document_with_images_and_annotations(data, tmp_path):
    document = {
        "images": [{"id": 1, "file_name": "elsewhere/x.png"}, {"id": 2, "file_name": "y.png"}],
        "annotations": [ENTRY | {"image_id": 1}],
    }
    assert list(read(document, data, tmp_path)) == [0]
    document["annotations"] = [ENTRY | {"image_id": 2}]  # two images of the dataset have this name
    with pytest.raises(InputError, match=r"entry 0: file_name 'y\.png' is not an image of the dataset"):
        read(document, data, tmp_path)
    document |= {"images": [3, {"id": 5}], "annotations": [ENTRY]}  # without names, the ids are those of the dataset
    assert list(read(document, data, tmp_path)) == [0]
