"""Benchmark COCO metrics on synthetic detections: hotcoco, through `retinanet.evaluation`, and pycocotools."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.benchmarks.measure import Variant, compare, ratio
from retinanet.benchmarks.report import comparison_table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult
from retinanet.evaluation.coco import METRICS, score_detections
from retinanet.formats.coco.results import coco_results
from retinanet.formats.dataset import Dataset, start_of_each
from retinanet.structures import Detections

IMAGES, DETECTIONS, OBJECTS, CLASSES = 500, 100, 7, 80  # detections and objects are per image
SIDE = 640  # side of each image, pixels
OURS, THEIRS = "ours", "pycocotools"


def run(settings: Settings) -> SuiteResult:
    images, classes = settings.batch or IMAGES, settings.classes or CLASSES
    dataset, detections = synthetic(images, classes)
    variants = [
        Variant(OURS, lambda: score_detections(dataset, detections).metrics, on_device=False),
        Variant(THEIRS, pycocotools_call(dataset, detections), on_device=False),
    ]
    ours, theirs = (variant.call() for variant in variants)
    difference = max(abs(ours[name] - theirs[name]) for name in METRICS if not np.isnan(ours[name]))
    measured = compare(variants, rounds=settings.rounds, device=torch.device("cpu"), what="eval")
    title = f"eval: {images} images x {DETECTIONS} detections x {classes} classes"
    tables = [
        comparison_table(title, measured, ours=OURS),
        f"largest difference of the twelve metrics: {difference:.1e}",
    ]
    details = {
        "images": images,
        "detections_per_image": DETECTIONS,
        "classes": classes,
        "largest_difference": difference,
        "variants": to_plain_values(measured, ours=OURS),
    }
    return SuiteResult({"vs_pycocotools": ratio(measured[THEIRS], measured[OURS]).of_rounds}, tables, details)


def synthetic(images: int, classes: int) -> tuple[Dataset, dict[int, Detections]]:
    """Generate random objects, and detections: one near each object, the rest random."""
    random = np.random.default_rng(0)
    boxes, labels, detections = [], [], {}
    for index in range(images):
        boxes.append(random_boxes(random, OBJECTS))
        labels.append(random.integers(0, classes, OBJECTS))
        near = boxes[-1] * random.uniform(0.9, 1.1, boxes[-1].shape)
        detected = np.concatenate([near, random_boxes(random, DETECTIONS - OBJECTS)])
        detected[:, 2:] += detected[:, :2]
        detections[index] = Detections(
            torch.from_numpy(detected).float(),
            torch.from_numpy(random.random(DETECTIONS)).float(),
            torch.from_numpy(np.concatenate([labels[-1], random.integers(0, classes, DETECTIONS - OBJECTS)])),
        )
    boxes_xywh, all_labels = np.concatenate(boxes), np.concatenate(labels)
    dataset = Dataset(
        paths=tuple(f"{number}.jpg" for number in range(1, images + 1)),
        image_ids=tuple(range(1, images + 1)),
        sizes=np.full((images, 2), SIDE),
        box_start=start_of_each(np.full(images, OBJECTS)),
        boxes_xywh=boxes_xywh,
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        labels=all_labels,
        is_crowd=np.zeros(len(all_labels), dtype=bool),
        class_names=tuple(f"class {number}" for number in range(1, classes + 1)),
        category_ids=tuple(range(1, classes + 1)),
    )
    return dataset, detections


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """Generate boxes with log-uniform sides, (count, 4): x, y, width, height."""
    sides = np.exp(random.uniform(np.log(8), np.log(SIDE / 2), (count, 2)))
    return np.concatenate([random.random((count, 2)) * (SIDE - sides), sides], axis=1)


def pycocotools_call(dataset: Dataset, detections: dict[int, Detections]) -> Callable[[], dict[str, float]]:
    truth = coco_document(dataset)
    results = coco_results(((index + 1, found) for index, found in detections.items()), dataset.category_ids)

    def call() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            objects = COCO()
            objects.dataset = truth
            objects.createIndex()
            evaluation = COCOeval(objects, objects.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))

    return call


def coco_document(dataset: Dataset) -> dict[str, Any]:
    """Convert the ground truth to the COCO document that pycocotools reads."""
    image_ids = np.repeat(dataset.image_ids, np.diff(dataset.box_start)).tolist()
    columns = (image_ids, dataset.labels.tolist(), dataset.boxes_xywh.tolist(), dataset.areas.tolist())
    return {
        "images": [{"id": number, "width": SIDE, "height": SIDE} for number in dataset.image_ids],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": dataset.category_ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": 0,
            }
            for number, (image_id, label, box, area) in enumerate(zip(*columns, strict=True), 1)
        ],
        "categories": [{"id": i, "name": n} for i, n in zip(dataset.category_ids, dataset.class_names, strict=True)],
    }
