import numpy as np
import pytest

from retinanet.formats.dataset import concatenate
from retinanet.structures import Batch
from tests.helpers.datasets import dataset_of, image_record

RECORDS = [
    image_record("a.png", 48, 64, [[0, 0, 4, 4], [1, 1, 9, 9], [2, 2, 7, 7]], labels=[0, 2, 2],
                 is_crowd=[False, False, True], image_id="seven"),
    image_record("b.png", 30, 40, [], image_id=3),
    image_record("c.png", 10, 20, [[3, 3, 5, 5], [4, 4, 6, 6], [0, 1, 2, 3]], labels=[2, 0, 0], image_id=5),
]  # fmt: skip
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def dataset():
    return dataset_of(RECORDS, class_names=NAMES)


def assert_images(dataset, records, *, image_ids=None):
    assert len(dataset) == len(records)
    for index, expected in enumerate(records):
        image = dataset.image(index)
        assert (image.path, image.height, image.width) == (expected.path, expected.height, expected.width)
        assert image.image_id == (image_ids[index] if image_ids else expected.image_id)
        assert np.array_equal(image.boxes, expected.boxes) and image.boxes.dtype == np.float32
        assert np.array_equal(image.labels, expected.labels) and image.labels.dtype == np.int64
        assert np.array_equal(image.is_crowd, expected.is_crowd) and image.is_crowd.dtype == bool
        rows = slice(dataset.box_start[index], dataset.box_start[index + 1])
        xywh = np.concatenate([expected.boxes[:, :2], expected.boxes[:, 2:] - expected.boxes[:, :2]], axis=1)
        assert np.array_equal(dataset.boxes_xywh[rows], xywh) and dataset.boxes_xywh.dtype == np.float64
        assert np.array_equal(dataset.areas[rows], xywh[:, 2] * xywh[:, 3]) and dataset.areas.dtype == np.float64


def test_image_returns_the_boxes_of_one_image(dataset):
    assert_images(dataset, RECORDS)


@pytest.mark.parametrize("indices", [[0, 1, 2], [2, 0], [1], [1, 1, 0, 2, 0], []])
def test_subset_has_the_images_in_the_given_order(dataset, indices):
    subset = dataset.subset(indices)
    assert_images(subset, [RECORDS[index] for index in indices])
    assert subset.class_names == NAMES and subset.category_ids == dataset.category_ids
    assert_images(dataset, RECORDS)  # unchanged


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_first_returns_at_most_the_given_number_of_images(dataset, count, expected):
    assert_images(dataset.first(count), RECORDS[:expected])


def test_concatenate_numbers_the_images_from_1(dataset):
    joined = concatenate([dataset, dataset.subset([2, 1])])
    assert_images(joined, [*RECORDS, RECORDS[2], RECORDS[1]], image_ids=[1, 2, 3, 4, 5])


def test_object_counts_exclude_crowds(dataset):
    assert dataset.object_counts() == [3, 0, 2, 0]
    assert dataset_of([image_record(boxes=[])], class_names=("a", "b")).object_counts() == [0, 0]


def test_image_ids_follow_the_batches(dataset):
    batches = [Batch(None, None, None, None, indices) for indices in ((2, 0), (1,))]
    assert dataset.image_ids_of(batches) == [5, "seven", 3]
