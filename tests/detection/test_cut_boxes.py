import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.detection.cut_boxes import complete_cut_boxes, cut_sides
from retinanet.detection.merge import Merge
from tests.helpers.views import parts_seen, rows

SIZE = (180, 260)
TILES = [(x, y, x + 100, y + 100) for y in (0, 80) for x in (0, 80, 160)]


def array(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def completed(boxes, windows, scores=None, min_iou=0.5):
    scores = np.full(len(boxes), 0.5) if scores is None else np.array(scores)
    groups = np.zeros(len(boxes), dtype=np.int64)
    found, changed = complete_cut_boxes(array(*boxes), scores, groups, array(*windows), SIZE, min_iou=min_iou)
    return found.tolist(), changed.tolist()


def test_only_sides_at_an_inner_edge_are_cut():
    """Boxes of 20 by 50 pixels may be 2 pixels from the left or right edge, and 5 from the upper or lower one."""
    left, inner = TILES[0], TILES[1]
    boxes = array((0, 0, 20, 50), (80, 5, 100, 55), (82.5, 46, 102.5, 96), (158, 0, 178, 100))
    expected = [
        [False, False, False, False],  # edges of the image
        [True, False, False, False],
        [False, False, False, True],
        [False, False, True, True],
    ]
    assert cut_sides(boxes, array(left, inner, inner, inner), SIZE).tolist() == expected


def test_box_without_a_match_is_unchanged():
    boxes = [(70, 20, 100, 70), (80, 90, 130, 99)]
    assert completed(boxes, TILES[:2]) == ([list(box) for box in boxes], [False, False])


def test_side_is_taken_from_the_match_with_the_best_score_and_iou():
    """In the overlap, x from 80 to 100, the others match by 20/20 and 18/20 of its height; 0.5 is below 0.9 * 0.9."""
    boxes = [(70, 20, 100, 40), (80, 20, 120, 40), (80, 20, 140, 38)]
    windows = [TILES[0], TILES[1], TILES[1]]
    found, changed = completed(boxes, windows, scores=[0.8, 0.5, 0.9])
    assert found[0] == [70, 20, 140, 40] and changed[0]
    found, _ = completed(boxes, windows, scores=[0.8, 0.9, 0.5])
    assert found[0] == [70, 20, 120, 40]


def test_match_that_shows_the_end_is_preferred():
    """The right tile also cuts the object, and no third tile shows it: the whole image decides."""
    boxes = [(70, 20, 100, 40), (80, 20, 180, 40), (70, 20, 200, 40)]
    found, changed = completed(boxes, [TILES[0], TILES[1], (0, 0, 260, 180)], scores=[0.8, 0.9, 0.3])
    assert [box[2] for box in found] == [200, 200, 200]
    assert changed == [True, True, False]


def test_boxes_of_the_same_window_do_not_match():
    boxes = [(70, 20, 100, 40), (70, 20, 99, 40)]
    assert completed(boxes, [TILES[0], TILES[0]])[1] == [False, False]


@st.composite
def separate_objects(draw):
    """Boxes in a 260 by 180 image, at least 12 pixels wide and high, that do not overlap, each with its own score."""
    columns = draw(st.lists(st.integers(12, 130), min_size=1, max_size=8))
    lines = draw(st.lists(st.integers(12, 90), min_size=1, max_size=4))
    boxes, x = [], draw(st.integers(0, 20))
    for width in columns:
        y = draw(st.integers(0, 20))
        for height in lines:
            gap = draw(st.integers(0, 10))
            if x + width <= 260 and y + gap + height <= 180:
                boxes.append((x, y + gap, x + width, y + gap + height))
            y += gap + height
        x += width + draw(st.integers(0, 10))
    return [(*box, round(0.5 + index / 100, 2)) for index, box in enumerate(boxes)]


@settings(deadline=None, max_examples=100)
@given(separate_objects())
def test_tiles_of_a_perfect_detector_give_every_object_once(objects):
    """Many of the objects touch each other, lie across seams, or are larger than a tile."""
    found = [parts_seen(window, *objects) for window in [*TILES, (0, 0, 260, 180)]]
    assert rows(Merge()(found, SIZE)) == [[*thing, 0] for thing in reversed(objects)]
