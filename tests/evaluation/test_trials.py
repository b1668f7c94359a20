"""Samples of images with their detections, and the increase in AP that proves a repair."""

from dataclasses import replace

import numpy as np
import pytest

from retinanet.evaluation.detection_table import detection_table
from retinanet.evaluation.trials import by_image, draw_sample, is_proof, of_images, try_placements, try_relabelling
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.planted_faults import BOX_FAULTS, with_box_fault, with_labels
from tests.helpers.simulated_detectors import detect, random_dataset


def table_of(dataset, detections):
    return detection_table(detections, np.arange(len(dataset)))


@pytest.mark.parametrize(
    "before, after, num_objects, proven",
    [
        (0.0, 0.5, 20, True),
        (0.0, 0.5, 19, False),  # corresponds to fewer than ten objects
        (0.25, 0.5, 100, True),
        (0.26, 0.5, 100, False),  # less than twice as high
        (0.0, 0.09, 1000, False),  # less than 0.1 higher
    ],
)
def test_proof(before, after, num_objects, proven):
    assert is_proof(before, after, num_objects) == proven


def test_detections_of_chosen_images():
    random = np.random.default_rng(0)
    dataset = random_dataset(random, num_images=6)
    detections = {index: one for index, one in detect(dataset, random).items() if index != 3}
    chosen = by_image(of_images(table_of(dataset, detections), np.array([4, 3, -1, 0])))
    expected = {0: detections[4], 3: detections[0]}  # images 3 and -1 have none
    assert chosen.keys() == expected.keys()
    for index, one in expected.items():
        assert np.allclose(chosen[index].boxes, one.boxes, atol=1e-4)
        assert chosen[index].scores.equal(one.scores) and chosen[index].labels.equal(one.labels)


def test_sample_has_only_images_with_objects_and_their_detections():
    random = np.random.default_rng(0)
    with_objects = random_dataset(random, num_images=20)
    dataset = dataset_of(
        [record for index in range(20) for record in (with_objects.image(index), image_record(boxes=[]))],
        class_names=with_objects.class_names,
    )
    detections = detect(dataset, random)
    sample = draw_sample(dataset, table_of(dataset, detections), max_images=5)
    assert len(sample.dataset) == 5 and (sample.chosen % 2 == 0).all()
    assert sample.num_objects == sum(len(dataset.image(index).boxes) for index in sample.chosen)
    assert by_image(sample.table).keys() == set(range(5))


def test_repair_of_the_frame_is_the_simplest_that_explains_the_boxes():
    # In square images of one size, four kinds of frame agree.
    random = np.random.default_rng(0)
    dataset = random_dataset(random)
    sizes = np.full_like(dataset.sizes, 700)
    dataset = replace(dataset, sizes=sizes)
    detections = with_box_fault(detect(dataset, random), dataset, BOX_FAULTS["scaled by 1.5"][0])
    table = table_of(dataset, detections)
    trials = try_placements(dataset, table, draw_sample(dataset, table, max_images=300))
    assert trials.proven.cause == "boxes are scaled by about 1.5"
    assert trials.proven.after == trials.best > 0.8 > trials.before == trials.proven.before


def test_relabelling_needs_two_classes_that_were_exchanged():
    random = np.random.default_rng(0)
    dataset = random_dataset(random, num_classes=2)
    detections = detect(dataset, random, label_error=0)

    def relabelling(new_label):
        table = table_of(dataset, with_labels(detections, new_label))
        return try_relabelling(draw_sample(dataset, table, max_images=300))

    assert relabelling([0, 1]) is None
    assert relabelling([0, 0]) is None and relabelling([1, 1]) is None
    assert relabelling([1, 0]).cause == "classes are permuted"
