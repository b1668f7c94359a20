import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.detection import overlapping_pairs as module
from retinanet.detection.overlapping_pairs import overlapping_pairs


def pairs_of(boxes, groups):
    pairs = [
        tuple(sorted(pair))
        for first, second in overlapping_pairs(boxes, groups)
        for pair in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def pairs_by_loop(boxes, groups):
    return {
        (i, j)
        for j in range(len(boxes))
        for i in range(j)
        if groups[i] == groups[j]
        and min(boxes[i][2], boxes[j][2]) > max(boxes[i][0], boxes[j][0])
        and min(boxes[i][3], boxes[j][3]) > max(boxes[i][1], boxes[j][1])
    }


@st.composite
def some_boxes(draw):
    """Boxes with small integer coordinates, many of which touch; in a tall or a wide area."""
    across, along = st.integers(-5, 12), st.integers(-5, 60)
    place = draw(st.sampled_from([(across, along), (along, across)]))
    side = st.integers(1, 12)
    drawn = draw(st.lists(st.tuples(*place, side, side, st.integers(0, 3)), max_size=30))
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in drawn], dtype=np.float64).reshape(-1, 4)
    return boxes, np.array([group for *_, group in drawn], dtype=np.int64)


@settings(deadline=None, max_examples=100)
@given(some_boxes())
def test_pairs_are_those_of_a_loop(drawn):
    assert pairs_of(*drawn) == pairs_by_loop(*drawn)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pairs_do_not_depend_on_the_size_of_chunks(limit, monkeypatch):
    random = np.random.default_rng(0)
    corners = random.uniform(0, 50, (60, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 20, (60, 2))], axis=1)
    groups = random.integers(0, 2, 60)
    expected = pairs_by_loop(boxes, groups)
    assert len(expected) > 100
    monkeypatch.setattr(module, "MAX_PAIRS", limit)
    assert pairs_of(boxes, groups) == expected
    # A chunk has at most `limit` pairs, unless a single box has more.
    assert max(len(first) for first, _ in overlapping_pairs(boxes, groups)) <= max(limit, 60)


def test_far_apart_boxes_are_not_compared():
    """A column of boxes overlaps on one axis, so that the other one must be used; a row likewise."""
    steps = np.arange(1000.0) * 20
    row = np.stack([steps, np.zeros(1000), steps + 10, np.full(1000, 10.0)], axis=1)
    for boxes in (row, row[:, [1, 0, 3, 2]]):
        sweep = module._Sweep
        compared = [sweep(boxes[:, axis::2]).num_pairs for axis in (0, 1)]
        assert sorted(compared) == [0, 1000 * 999 // 2]
        assert list(map(len, next(overlapping_pairs(boxes, np.zeros(1000, dtype=np.int64))))) == [0, 0]
