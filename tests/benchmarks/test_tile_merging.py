"""Objects that are cut into tiles are merged to the same objects."""

import numpy as np
import pytest

from retinanet.benchmarks.tile_merging import ideal_detections, merged_detections
from retinanet.detection.merge import Merge
from retinanet.formats.images.windows import Window
from tests.helpers.datasets import dataset_of, image_record

# Objects inside a tile, across a vertical seam, across a corner of four tiles, and larger than a tile.
BOXES = [(5, 5, 25, 20), (90, 30, 130, 60), (80, 85, 115, 118), (150, 20, 290, 190)]


@pytest.mark.parametrize("method", ["nms", "weighted_boxes"])
def test_objects_without_noise_are_found_once_and_exactly(method):
    dataset = dataset_of([image_record(height=200, width=300, boxes=BOXES, labels=[0, 0, 0, 0])])
    found = merged_detections(dataset, Merge(method=method), tile_size=100, overlap=0.3, noise=0)[0]
    assert sorted(found.boxes.tolist()) == sorted(map(list, BOXES))


def test_a_window_shows_parts_of_objects_and_no_crowd_regions():
    record = image_record(
        height=100,
        width=200,
        boxes=[(90, 10, 130, 50), (99, 60, 139, 80), (10, 10, 50, 50)],
        is_crowd=[False, False, True],
    )
    found = ideal_detections(record, Window(0, 0, 100, 100), np.random.default_rng(0), noise=0)
    # A quarter of the first object is visible, a fortieth of the second; the third is a crowd region.
    assert found.boxes.tolist() == [[90, 10, 100, 50]]
