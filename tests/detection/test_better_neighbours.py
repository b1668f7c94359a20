import numpy as np
import pytest
import torch

from retinanet.detection.better_neighbours import BetterNeighbours
from retinanet.detection.nms import nms_by_group


def random_boxes(seed, count=400):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 200, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 60, (count, 2))], axis=1)
    return boxes, random.uniform(0, 1, count), random.integers(0, 3, count)


@pytest.mark.parametrize("max_iou", [0.2, 0.5])
def test_kept_boxes_are_those_of_nms(max_iou):
    boxes, scores, groups = random_boxes(0)
    ranked = np.argsort(-scores, kind="stable")
    kept = ranked[BetterNeighbours(boxes, groups, ranked, min_iou=max_iou).kept_by_nms()]
    expected = nms_by_group(*map(torch.from_numpy, (boxes, scores, groups)), max_iou=max_iou)
    assert 50 < len(kept) < len(boxes)
    assert kept.tolist() == expected.tolist()


def test_neighbours_are_better_and_from_other_sources():
    """Box 1 has the highest score, and boxes 0 and 2 overlap it (IoU 9/11); boxes 0 and 1 are from the same source."""
    boxes = np.array([[1, 0, 11, 10], [0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]], dtype=np.float64)
    groups, ranked = np.zeros(4, dtype=np.int64), np.array([1, 0, 2, 3])
    neighbours = BetterNeighbours(boxes, groups, ranked, min_iou=0.5, sources=np.array([7, 7, 8, 9]))
    assert [sorted(neighbours.of(rank).tolist()) for rank in range(4)] == [[], [], [0, 1], []]
    assert neighbours.kept_by_nms().tolist() == [True, True, False, True]


def test_removed_box_removes_no_other():
    """Each box overlaps the next by 2/3 of its width (IoU 1/2): without the second, the third remains."""
    boxes = np.array([[0, 0, 30, 10], [10, 0, 40, 10], [20, 0, 50, 10]], dtype=np.float64)
    neighbours = BetterNeighbours(boxes, np.zeros(3, dtype=np.int64), np.arange(3), min_iou=0.4)
    assert neighbours.kept_by_nms().tolist() == [True, False, True]
