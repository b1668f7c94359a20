import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.evaluation.coco import METRICS, CocoScores, coco_results, score_results
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


def by_pycocotools(ground_truth: dict, results: list[dict]) -> tuple[dict[str, float], dict[str, float], str]:
    """What raw pycocotools says: the figures, AP by class name, and its printed lines."""
    ground_truth, results = copy.deepcopy((ground_truth, results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = ground_truth
        # loadRes fails on an empty list.
        entries = [{**r, "id": n, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for n, r in enumerate(results, 1)]
        found.dataset = {**ground_truth, "annotations": entries}
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    metrics = dict(zip(METRICS, (math.nan if v == -1 else v for v in evaluation.stats.tolist()), strict=True))
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    per_class = {}
    for number, category_id in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][:, :, number, 0, -1]
        known = precision[precision > -1]
        per_class[names[category_id]] = float(known.mean()) if known.size else math.nan
    return metrics, per_class, printed.getvalue()


def assert_equal_to_pycocotools(ground_truth: dict, results: list[dict]) -> CocoScores:
    before = copy.deepcopy((ground_truth, results))
    scores = score_results(ground_truth, results)
    assert (ground_truth, results) == before
    metrics, per_class, printed = by_pycocotools(ground_truth, results)
    assert list(scores.metrics) == list(metrics) and list(scores.per_class) == list(per_class)
    assert scores.metrics == pytest.approx(metrics, rel=0, abs=1e-12, nan_ok=True)
    assert scores.per_class == pytest.approx(per_class, rel=0, abs=1e-12, nan_ok=True)
    assert scores.summary == printed.rstrip()
    return scores


# What differs from the defaults of `random_set`.
FAMILIES = {
    "plain": {},
    "crowds": {"crowds": 0.4},
    "ties": {"coarse": True},
    "crowds and ties": {"crowds": 0.4, "coarse": True},
    "at most 100 detections of a class count": {"detections": 250, "classes": 1, "coarse": True},
    "few objects": {"objects": 1},
    "no objects": {"objects": 0},
    "no detections": {"detections": 0},
    "gapped ids": {"gapped": True, "crowds": 0.2},
    "areas at the borders of the sizes": {"borders": True},
}


def random_set(
    seed: int,
    *,
    objects: int = 8,
    detections: int = 20,
    classes: int = 4,
    crowds: float = 0.0,
    coarse: bool = False,
    gapped: bool = False,
    borders: bool = False,
) -> tuple[dict, list[dict]]:
    """Six images in COCO form, some without objects or detections.

    Args:
        objects, detections: an image, at most.
        crowds: chance of each object to be a crowd.
        coarse: boxes and scores of few values, so that overlaps and scores tie.
        gapped: ids neither in order nor without gaps.
        borders: areas on and beside the limits of small, medium and large.
    """
    random = np.random.default_rng(seed)
    image_ids = (random.permutation(10_000)[:6] if gapped else np.arange(1, 7)).tolist()
    category_ids = (random.permutation(500)[:classes] if gapped else np.arange(1, classes + 1)).tolist()

    def box() -> list[float]:
        if coarse:
            return [*random.integers(0, 4, 2).astype(float) * 20, *random.integers(1, 4, 2).astype(float) * 30]
        if borders:
            side = random.choice([32.0, 96.0])
            return [*random.uniform(0, 20, 2).tolist(), side, side + random.choice([-1e-6, 0.0, 1e-6])]
        return [*random.uniform(0, 100, 2).tolist(), *np.exp(random.uniform(1, 5, 2)).tolist()]

    annotations, results = [], []
    for image_id in image_ids:
        found = [box() for _ in range(random.integers(0, objects + 1))]
        for entry in found:
            annotation = {"image_id": image_id, "category_id": int(random.choice(category_ids)), "bbox": entry}
            area = entry[2] * entry[3] * (1.0 if coarse or borders else random.uniform(0.3, 1.0))  # as of a mask
            annotations.append(annotation | {"area": area, "iscrowd": int(random.random() < crowds)})
        for _ in range(random.integers(0, detections + 1)):
            entry = box()
            if found and random.random() < 0.6:
                entry = found[random.integers(len(found))]
                if not coarse and not borders:
                    entry = (np.array(entry) * random.uniform(0.8, 1.2, 4)).tolist()
            score = random.integers(1, 5) / 4 if coarse else random.random()
            results.append(result(image_id, entry, float(score), int(random.choice(category_ids))))
    numbers = random.permutation(len(annotations)) * 7 + 3 if gapped else np.arange(1, len(annotations) + 1)
    for annotation, number in zip(annotations, numbers.tolist(), strict=True):
        annotation["id"] = number
    images = [{"id": image_id, "height": 300, "width": 300} for image_id in image_ids]
    categories = [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_pycocotools_on_random_sets(family):
    known, several = 0, set()
    for seed in range(12):
        scores = assert_equal_to_pycocotools(*random_set(seed, **FAMILIES[family]))
        known += not math.isnan(scores.metrics["AP"])
        several.add(scores.metrics["AP"])
    if family == "no objects":
        assert known == 0
    elif family == "no detections":
        assert several == {0.0}
    else:
        assert known >= 10 and len(several) >= 5 and max(several) > 0.01


def test_object_with_id_0_counts():
    # pycocotools takes it for "no object", so that a perfect detection of it would score nothing.
    ground_truth = truth([(1, [10, 10, 40, 40])])
    ground_truth["annotations"][0]["id"] = 0
    assert score_results(ground_truth, [result(1, [10, 10, 40, 40], 0.9)]).metrics["AP"] == pytest.approx(1)


def test_nothing_is_printed(capfd, caplog):
    with caplog.at_level("DEBUG"):
        score_results(truth([(1, [10, 10, 40, 40])]), [result(1, [10, 10, 40, 40], 0.9)])
    assert capfd.readouterr() == ("", "")


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
    assert list(scores.metrics.values()) == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)
    assert 0.1 < scores.metrics["AP"] < 0.9
    assert sum(scores.per_class.values()) / 3 == pytest.approx(scores.metrics["AP"])


def test_results_carry_the_data_sets_own_ids():
    found = Detections(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.5]), torch.tensor([1]))
    assert coco_results([(42, found)], category_ids=(7, 13)) == [
        {"image_id": 42, "category_id": 13, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]
