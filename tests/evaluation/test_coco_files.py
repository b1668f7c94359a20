"""COCO metrics on annotations that were read from files."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.config import DataSource
from retinanet.evaluation.coco import score_detections
from retinanet.formats.coco.results import coco_results
from retinanet.formats.read import read_dataset
from tests.helpers.coco_scores import by_pycocotools, found, truth


def read(folder, document: dict):
    """Write an annotation file and blank images to a folder, and read them as a dataset."""
    for image in document["images"]:
        image["file_name"] = f"{image['id']}.png"
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    (folder / "truth.json").write_text(json.dumps({"info": {}, **document}))
    return read_dataset((DataSource(images=str(folder), annotations=str(folder / "truth.json")),))


def test_object_with_annotation_id_0_counts(tmp_path):
    # pycocotools treats the id 0 as "no object", so a perfect detection of it would score 0.
    document = truth([(1, [10, 10, 40, 40])])
    document["annotations"][0]["id"] = 0
    scores = score_detections(read(tmp_path, document), {0: found([10, 10, 40, 40], scores=[0.9])})
    assert scores.metrics["AP"] == pytest.approx(1)


def test_dropped_and_clipped_boxes_do_not_count(tmp_path):
    """The score equals that of a file without the dropped boxes in which the others are already clipped."""
    boxes = [(1, [10, 10, 40, 40]), (1, [60, 60, 40, 40]), (2, [20, 0, 30, 30])]
    repaired = truth(boxes)
    boxes[1] = (1, [60, 60, 80, 70])  # outside the image of 100 x 100
    boxes += [(1, [5, 5, 0, 9]), (2, [5, 5, 9, -9]), (2, [200, 5, 9, 9])]
    detections = {
        0: found([10, 10, 40, 40], [60, 60, 40, 40], [70, 60, 30, 40], scores=[0.9, 0.8, 0.7]),
        1: found([20, 0, 30, 24], scores=[0.6]),
    }
    scores = score_detections(read(tmp_path, truth(boxes)), detections)
    results = coco_results(((index + 1, of_image) for index, of_image in detections.items()), (1,))
    metrics, per_class, printed = by_pycocotools(repaired, results)
    np.testing.assert_array_equal(list(scores.metrics.values()), list(metrics.values()))  # NaN equals NaN
    assert scores.per_class == per_class and scores.summary == printed.rstrip()
    assert scores.metrics["AR100"] == pytest.approx((1 + 1 + 0.7) / 3)  # IoU 0.8: 7 of 10 thresholds


def test_boxes_that_round_beyond_the_image_score_as_in_pycocotools(tmp_path):
    document = truth([(1, [10, 10, 90.0003, 90.0002]), (2, [-0.5, 0, 50.25, 101])])
    detections = {0: found([10, 10, 90, 81], scores=[0.9]), 1: found([0, 0, 50, 95], scores=[0.8])}
    scores = score_detections(read(tmp_path, document), detections)
    results = coco_results(((index + 1, of_image) for index, of_image in detections.items()), (1,))
    np.testing.assert_array_equal(list(scores.metrics.values()), list(by_pycocotools(document, results)[0].values()))


def test_equal_to_pycocotools_from_files(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    boxes = (torch.rand(60, 4, generator=generator) * 40 + 5).tolist()
    document = truth([(1 + n % 10, box) for n, box in enumerate(boxes)], num_images=10, num_classes=3)
    for n, annotation in enumerate(document["annotations"]):
        annotation["category_id"] = 1 + n % 3
        annotation["iscrowd"] = int(n % 11 == 0)
    dataset = read(tmp_path, document)
    noise = (torch.rand(60, 4, generator=generator) * 6 - 3).tolist()
    shifted = [[a + b for a, b in zip(box, shift, strict=True)] for box, shift in zip(boxes, noise, strict=True)]
    detections = {
        index: found(
            *(shifted[n] for n in range(index, 60, 10)),
            scores=[(n * 37 % 60) / 60 for n in range(index, 60, 10)],
            labels=[n % 3 for n in range(index, 60, 10)],
        )
        for index in range(10)
    }
    results = coco_results(((index + 1, of_image) for index, of_image in detections.items()), dataset.category_ids)
    (tmp_path / "results.json").write_text(json.dumps(results))
    reference = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    scores = score_detections(dataset, detections)
    expected = [math.nan if value == -1 else value for value in evaluation.stats.tolist()]  # no large objects here
    np.testing.assert_array_equal(list(scores.metrics.values()), expected)
    assert 0.1 < scores.metrics["AP"] < 0.9
    assert sum(scores.per_class.values()) / 3 == pytest.approx(scores.metrics["AP"])
