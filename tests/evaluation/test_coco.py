import json
import math

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.evaluation.coco import METRICS, coco_results, score_results
from retinanet.structures import Detections


def truth(boxes: list[tuple[int, list[float]]], *, num_images: int = 2, num_classes: int = 1) -> dict:
    annotations = [
        {"id": n, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, box) in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": n, "height": 100, "width": 100} for n in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, num_classes + 1)],
    }


def result(image_id: int, box: list[float], score: float, category_id: int = 1) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def test_exact_boxes_score_one():
    scores = score_results(truth([(1, [10, 10, 40, 40])]), [result(1, [10, 10, 40, 40], 0.9)])
    assert [scores.metrics["AP"], scores.metrics["AP50"], scores.per_class["class 1"]] == pytest.approx([1, 1, 1])


def test_one_of_two_found_by_hand():
    # Recall stays at 0.5 with precision 1: the 101 points 0, 0.01, ..., 1 up to 0.5 are 51.
    scores = score_results(truth([(1, [10, 10, 40, 40]), (2, [10, 10, 40, 40])]), [result(1, [10, 10, 40, 40], 0.9)])
    assert scores.metrics["AP"] == pytest.approx(51 / 101)
    assert scores.metrics["AR100"] == pytest.approx(0.5)


def test_iou_decides_at_which_thresholds_a_box_counts():
    # 40 x 40 against 40 x 30 inside it: IoU 0.75, enough for 0.50, 0.55, ..., 0.75: 6 of 10 thresholds.
    scores = score_results(truth([(1, [10, 10, 40, 40])]), [result(1, [10, 10, 40, 30], 0.9)])
    assert scores.metrics["AP"] == pytest.approx(0.6)


def test_no_detections_score_zero_and_are_no_error():
    scores = score_results(truth([(1, [10, 10, 40, 40])]), [])
    assert scores.metrics["AP"] == 0
    assert scores.per_class == {"class 1": 0}


def test_no_objects_are_no_number():
    scores = score_results(truth([], num_classes=2), [result(1, [10, 10, 40, 40], 0.9)])
    assert math.isnan(scores.metrics["AP"])
    assert all(math.isnan(value) for value in scores.per_class.values())


def test_the_summary_is_in_pycocotools_words():
    lines = score_results(truth([(1, [10, 10, 40, 40])]), []).summary.splitlines()
    assert len(lines) == len(METRICS) == 12
    assert lines[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.000"


def test_equal_to_pycocotools_from_files(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    boxes = (torch.rand(60, 4, generator=generator) * 40 + 5).tolist()
    ground_truth = truth([(1 + n % 10, box) for n, box in enumerate(boxes)], num_images=10, num_classes=3)
    for n, annotation in enumerate(ground_truth["annotations"]):
        annotation["category_id"] = 1 + n % 3
        annotation["iscrowd"] = int(n % 11 == 0)
    noise = (torch.rand(60, 4, generator=generator) * 6 - 3).tolist()
    results = [
        result(1 + n % 10, [a + b for a, b in zip(box, shift, strict=True)], (n * 37 % 60) / 60, 1 + n % 3)
        for n, (box, shift) in enumerate(zip(boxes, noise, strict=True))
    ]
    (tmp_path / "truth.json").write_text(json.dumps({"info": {}, **ground_truth}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    reference = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    scores = score_results(ground_truth, results)
    expected = [math.nan if value == -1 else value for value in evaluation.stats.tolist()]  # no large objects here
    assert list(scores.metrics.values()) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert 0.1 < scores.metrics["AP"] < 0.9
    assert sum(scores.per_class.values()) / 3 == pytest.approx(scores.metrics["AP"])


def test_results_carry_the_data_sets_own_ids():
    found = Detections(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.5]), torch.tensor([1]))
    assert coco_results([(42, found)], category_ids=(7, 13)) == [
        {"image_id": 42, "category_id": 13, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]
