"""Images of a page: size, boxes and names."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.errors import InputError
from retinanet.evaluation.matches import match_detections
from retinanet.report.images import (
    MAX_BYTES,
    MAX_DETECTIONS,
    MAX_OBJECTS,
    MAX_SIDE,
    MIN_SIDE,
    BoxView,
    Reason,
    image_names,
    view_images,
)
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record

WORST = Reason("worst", "F1 0.00")


def white(dataset):
    return lambda index: torch.full((3, *dataset.sizes[index].tolist()), 255, dtype=torch.uint8)


def test_boxes_are_scaled_to_the_image_on_the_page_and_labelled():
    # 960 x 480 pixels are shown at half their size. Objects: a large one that is found, one that is missed, a crowd.
    objects = [(100, 100, 300, 300), (400, 0, 440, 60), (700, 200, 800, 280)]
    dataset = dataset_of([image_record("a.png", 480, 960, objects, labels=[0, 0, 0], is_crowd=[False, False, True])])
    boxes = [[100, 100, 200, 200], [700, 200, 100, 80], [0, 0, 20, 20], [100, 100, 190, 200]]
    detections = {0: found(*boxes, scores=[0.9, 0.8, 0.7, 0.6])}
    (view,) = view_images(dataset, detections, match_detections(dataset, detections), {0: [WORST]}, white(dataset))
    assert (view.width, view.height, view.path, view.reasons) == (480, 240, "a.png", (WORST,))
    assert view.objects == [
        BoxView(50, 50, 100, 100, 0, pytest.approx(0.9), "object"),
        BoxView(350, 100, 50, 40, 0, 0.0, "ignored"),
        BoxView(200, 0, 20, 30, 0, 0.0, "object"),
    ]
    assert view.detections == [
        BoxView(50, 50, 100, 100, 0, pytest.approx(0.9), "correct"),
        BoxView(350, 100, 50, 40, 0, pytest.approx(0.8), "ignored"),
        BoxView(0, 0, 10, 10, 0, pytest.approx(0.7), "background"),
        BoxView(50, 50, 95, 100, 0, pytest.approx(0.6), "duplicate"),
    ]


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(1000, 500, (MAX_SIDE, MAX_SIDE // 2)), (30, 60, (MIN_SIDE // 2, MIN_SIDE)), (400, 200, (400, 200))],
)
def test_images_are_shrunk_or_enlarged_in_proportion(height, width, shown):
    dataset = dataset_of([image_record("a.png", height, width)])
    (view,) = view_images(dataset, {}, match_detections(dataset, {}), {0: [WORST]}, white(dataset))
    encoded = view.url.removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == shown[::-1] == (view.width, view.height)
    assert view.detections == [] and view.num_detections == 0


def test_images_that_compress_badly_lose_quality():
    dataset = dataset_of([image_record("a.png", 640, 640)])
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 640, 640), dtype=np.uint8))
    (view,) = view_images(dataset, {}, match_detections(dataset, {}), {0: [WORST]}, lambda index: noise)
    assert len(view.url) <= MAX_BYTES


def test_largest_objects_and_highest_scores_are_kept():
    count = 150
    corners = [(0, 0, 10 + number, 10) for number in range(count)]
    dataset = dataset_of([image_record("a.png", 200, 200, corners)])
    scores = np.linspace(0.1, 0.9, count)[::-1].tolist()
    detections = {0: found(*([0, 0, 10 + number, 10] for number in range(count)), scores=scores)}
    matches = match_detections(dataset, detections)
    (view,) = view_images(dataset, detections, matches, {0: [WORST]}, white(dataset))
    widths = (np.arange(10, 10 + count)[::-1] * MIN_SIDE / 200)[:MAX_OBJECTS]
    assert view.num_objects == count
    assert [box.width for box in view.objects] == pytest.approx(widths.tolist(), abs=0.1)
    assert view.num_detections == 100  # that count
    assert [box.score for box in view.detections] == pytest.approx(scores[:MAX_DETECTIONS])


def test_unreadable_images_are_omitted():
    dataset = dataset_of([image_record(f"{number}.png", image_id=number) for number in range(3)])

    def read(index):
        if index == 1:
            raise InputError("1.png: damaged")
        return white(dataset)(index)

    reasons = {2: [WORST], 1: [WORST], 0: [WORST]}
    views = view_images(dataset, {}, match_detections(dataset, {}), reasons, read)
    assert [view.path for view in views] == ["2.png", "0.png"]


def test_names_are_relative_to_the_common_folder():
    assert image_names(["/data/val/a.png", "/data/val/b/c.png"]) == ["a.png", "b/c.png"]
    assert image_names(["val/a.png"]) == ["a.png"]
    assert image_names(["a.png", "b/c.png"]) == ["a.png", "b/c.png"]
    assert image_names(["/a.png", "b.png"]) == ["/a.png", "b.png"]
    assert image_names([]) == []
