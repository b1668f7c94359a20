"""Repairs of boxes and images undo the corresponding mistakes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.detection_table import detection_table
from retinanet.evaluation.misplaced import box_repairs, image_repairs
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.planted_faults import BOX_FAULTS, image_faults, with_box_fault
from tests.helpers.simulated_detectors import detect, random_dataset


@pytest.mark.parametrize("name", BOX_FAULTS)
def test_a_repair_restores_the_boxes(name):
    fault, cause = BOX_FAULTS[name]
    random = np.random.default_rng(0)
    dataset = random_dataset(random)
    detections = detect(dataset, random, box_error=0, num_false=0)
    right, wrong = (
        detection_table(one, np.arange(len(dataset)))
        for one in (detections, with_box_fault(detections, dataset, fault))
    )
    restored = [
        repair.apply(wrong.boxes_xywh, dataset.sizes[wrong.image_indices])
        for repair in box_repairs(dataset, wrong)
        if repair.cause.startswith(cause)
    ]
    # Exact up to rounding in float32, or to less than a pixel if the scale is estimated.
    tolerance = 1 if "scaled" in cause or "in pixels" in cause else 0.01
    assert min(abs(boxes - right.boxes_xywh).max() for boxes in restored) < tolerance


def test_a_repair_never_gives_a_negative_size():
    random = np.random.default_rng(0)
    dataset = random_dataset(random)
    table = detection_table(detect(dataset, random), np.arange(len(dataset)))
    for repair in box_repairs(dataset, table):
        assert repair.apply(table.boxes_xywh, dataset.sizes[table.image_indices])[:, 2:].min() >= 0


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0.001, 1000).filter(lambda factor: abs(np.log(factor)) > 0.1), seed=st.integers(0, 1000))
def test_the_scale_is_estimated_from_noisy_detections(factor, seed):
    random = np.random.default_rng(seed)
    dataset = random_dataset(random, num_images=30)
    detections = with_box_fault(detect(dataset, random, box_error=0.1), dataset, lambda boxes, w, h: boxes * factor)
    table = detection_table(detections, np.arange(len(dataset)))
    (text,) = [repair.finding for repair in box_repairs(dataset, table) if repair.finding.startswith("they are div")]
    assert float(text.removeprefix("they are divided by ")) == pytest.approx(factor, rel=0.05)


def test_boxes_in_the_right_frame_are_not_scaled():
    random = np.random.default_rng(0)
    dataset = random_dataset(random)
    table = detection_table(detect(dataset, random), np.arange(len(dataset)))
    assert not any("divided" in repair.finding for repair in box_repairs(dataset, table))


@pytest.mark.parametrize("name", image_faults(random_dataset(np.random.default_rng(0))))
def test_an_image_repair_finds_the_source_of_each_image(name):
    dataset = random_dataset(np.random.default_rng(0), num_images=30)
    source = np.argsort(image_faults(dataset)[name])
    # A shift has no source for the image at one end.
    agreement = [(repair.source == source).sum() for repair in image_repairs(dataset)]
    assert max(agreement) >= 29


def test_image_repairs_differ_from_each_other_and_from_doing_nothing():
    # All orders agree, except the reversed one.
    dataset = dataset_of([image_record(f"{number}.png", image_id=number) for number in range(5)])
    sources = [tuple(repair.source.tolist()) for repair in image_repairs(dataset)]
    assert sorted(sources) == [(-1, 0, 1, 2, 3), (1, 2, 3, 4, -1), (4, 3, 2, 1, 0)]


def test_the_only_repair_of_one_image_drops_its_detections():
    assert [repair.source.tolist() for repair in image_repairs(dataset_of([image_record()]))] == [[-1]]
