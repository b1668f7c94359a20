import numpy as np
import pytest

from retinanet.detection.weighted_boxes import num_containing, weighted_boxes

WHOLE = np.array([[0, 0, 100, 100]], dtype=np.float64)


def array(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def test_three_boxes_by_hand():
    """The average of the first two is (0.8 * 10 + 0.4 * 16) / 1.2 = 12 on each axis; the third has IoU 1 with it.

    Two of the four views miss the object: the score is (0.8 + 0.4 + 0.3) / 3 * 3 / 4.
    """
    boxes = array((10, 10, 40, 40), (16, 16, 46, 46), (12, 12, 42, 42))
    fused, scores, best = weighted_boxes(
        boxes, np.array([0.8, 0.4, 0.3]), np.zeros(3, dtype=np.int64), np.repeat(WHOLE, 4, axis=0), min_iou=0.4
    )
    assert fused == pytest.approx(array((12, 12, 42, 42)))
    assert scores.tolist() == pytest.approx([0.375])
    assert best.tolist() == [0]


def test_box_is_compared_with_the_average():
    """x1 of the average of the first two is (0.9 * 0 + 0.9 * 4) / 1.8 = 2; its IoU with the third is 22/38 = 0.579.

    The IoU of the third box with the first is 20/40, and 24/36 with the second.
    """
    boxes = array((0, 0, 30, 10), (4, 0, 34, 10), (10, 0, 40, 10))
    scores, groups = np.array([0.9, 0.9, 0.5]), np.zeros(3, dtype=np.int64)
    assert len(weighted_boxes(boxes, scores, groups, WHOLE, min_iou=0.57)[0]) == 1
    assert len(weighted_boxes(boxes, scores, groups, WHOLE, min_iou=0.59)[0]) == 2


def test_groups_are_separate():
    boxes = array((10, 10, 40, 40), (10, 10, 40, 40))
    fused, scores, best = weighted_boxes(boxes, np.array([0.4, 0.8]), np.array([0, 1]), WHOLE, min_iou=0.5)
    assert len(fused) == 2 and scores.tolist() == [0.8, 0.4] and best.tolist() == [1, 0]


def test_more_boxes_than_views_do_not_raise_the_score():
    boxes = np.repeat(array((10, 10, 40, 40)), 3, axis=0)
    _, scores, _ = weighted_boxes(boxes, np.full(3, 0.6), np.zeros(3, dtype=np.int64), WHOLE, min_iou=0.5)
    assert scores.tolist() == pytest.approx([0.6])


def test_box_that_no_view_contains_keeps_its_mean_score():
    windows = array((0, 0, 50, 100), (40, 0, 100, 100))
    _, scores, _ = weighted_boxes(array((20, 0, 80, 50)), np.array([0.7]), np.array([0]), windows, min_iou=0.5)
    assert scores.tolist() == pytest.approx([0.7])


def test_windows_that_contain_a_box_are_counted():
    windows = array((0, 0, 50, 50), (40, 0, 100, 50), (0, 0, 100, 100))
    boxes = array((10, 10, 20, 20), (10, 10, 50.9, 20), (45, 10, 49, 20), (45, 60, 49, 70))
    assert num_containing(boxes, windows).tolist() == [2, 2, 3, 1]
    assert num_containing(array(), windows).tolist() == []


def fused_by_loop(boxes, scores, groups, num_views, min_iou):
    """Section 3 of Solovyev et al. (2021), comparing each box with the average of every cluster."""
    clusters = []
    for index in np.argsort(-scores, kind="stable"):
        averages = [np.average(boxes[members], axis=0, weights=scores[members]) for members in clusters]
        ious = [
            iou(average, boxes[index]) if groups[members[0]] == groups[index] else 0.0
            for average, members in zip(averages, clusters, strict=True)
        ]
        if ious and max(ious) > min_iou:
            clusters[int(np.argmax(ious))].append(index)
        else:
            clusters.append([index])
    fused = [
        (
            *np.average(boxes[members], axis=0, weights=scores[members]),
            scores[members].mean() * min(len(members), num_views) / num_views,
            groups[members[0]],
        )
        for members in clusters
    ]
    return np.array(sorted(fused))


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("min_iou", [0.4, 0.55])
def test_clusters_are_those_of_a_loop_over_all_of_them(seed, min_iou):
    random = np.random.default_rng(seed)
    objects = random.uniform(0, 150, (12, 2))[random.integers(0, 12, 90)]
    corners = objects + random.normal(0, 4, (90, 2))
    boxes = np.concatenate([corners, corners + random.uniform(20, 40, (90, 2))], axis=1)
    scores, groups = random.uniform(0.05, 1, 90), random.integers(0, 2, 90)
    windows = np.repeat(array((-100, -100, 300, 300)), 5, axis=0)
    fused, fused_scores, best = weighted_boxes(boxes, scores, groups, windows, min_iou=min_iou)
    found = np.concatenate([fused, fused_scores[:, None], groups[best][:, None]], axis=1)
    expected = fused_by_loop(boxes, scores, groups, 5, min_iou)
    assert 15 < len(expected) < 80
    np.testing.assert_allclose(np.array(sorted(found.tolist())), expected, atol=1e-9)
    assert (np.diff(fused_scores) <= 0).all()
