import pytest
import torch

from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.nearest import nearest_anchors

GRIDS = AnchorGenerator(strides=(16, 64), sizes=(24, 90), scales=(1.0, 2.0), aspect_ratios=(1.0,))(80, 64)


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


@pytest.mark.parametrize("count", [1, 3, 4, 7, 12, 100])
def test_nearest_anchors_of_each_level_with_ties_going_to_the_first(count):
    # Points in steps of an eighth of a cell, inside and outside the grid, including all points midway between cells.
    points = [(x, y) for y in range(-16, 96, 2) for x in range(-16, 80, 2)]
    nearest = nearest_anchors(GRIDS, torch.tensor([points], dtype=torch.float32), count)[0].tolist()
    levels = [level.reshape(-1, 4).tolist() for level in GRIDS]
    for (x, y), indices in zip(points, nearest, strict=True):
        expected, first = [], 0
        for level in levels:
            distances = [(cx - x) ** 2 + (cy - y) ** 2 for cx, cy in map(centre, level)]
            expected += [first + i for i in sorted(range(len(level)), key=lambda i, far=distances: (far[i], i))[:count]]
            first += len(level)
        assert indices == expected
