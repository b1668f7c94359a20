"""Merging of tiles and other views, with boxes made by hand. Tiles are 100 pixels wide and overlap by 20 pixels."""

import pytest

from retinanet.detection.merge import Merge
from tests.helpers.views import parts_seen, rows, seen

ROW = [(0, 0, 100, 100), (80, 0, 180, 100), (160, 0, 260, 100)]
GRID = [(0, 0, 100, 100), (80, 0, 180, 100), (0, 80, 100, 180), (80, 80, 180, 180)]
ROW_SIZE, GRID_SIZE = (100, 260), (180, 180)


def test_object_inside_one_tile_is_unchanged():
    found = [seen(ROW[0], (10, 20, 60, 70, 0.9, 2)), seen(ROW[1])]
    assert rows(Merge()(found, ROW_SIZE)) == [[10, 20, 60, 70, 0.9, 2]]


def test_object_in_the_overlap_is_detected_once():
    found = [seen(ROW[0], (83, 20, 97, 70, 0.7)), seen(ROW[1], (84, 20, 97, 70, 0.8))]
    assert rows(Merge()(found, ROW_SIZE)) == [[84, 20, 97, 70, 0.8, 0]]


@pytest.mark.parametrize("scores", [(0.9, 0.8), (0.8, 0.9)])
def test_parts_of_an_object_complete_each_other(scores):
    """Both tiles cut the object, at 70 to 130: the left one shows it up to 100, the right one from 80 (IoU 20 / 60)."""
    found = [seen(ROW[0], (70, 20, 100, 70, scores[0])), seen(ROW[1], (80, 20, 130, 70, scores[1]))]
    assert rows(Merge()(found, ROW_SIZE)) == [[70, 20, 130, 70, 0.9, 0]]


def test_part_with_the_higher_score_does_not_replace_the_whole():
    """The right tile shows all of the object, the left one a quarter of it."""
    found = [seen(ROW[0], (90, 20, 100, 70, 0.9)), seen(ROW[1], (91, 20, 130, 70, 0.3))]
    assert rows(Merge()(found, ROW_SIZE)) == [[90, 20, 130, 70, 0.9, 0]]


@pytest.mark.parametrize("whole_image", [False, True])
def test_object_across_four_tiles_is_detected_once(whole_image):
    thing = (60, 70, 150, 120, 0.9, 1)
    views = [*GRID, (0, 0, 180, 180)] if whole_image else GRID
    assert rows(Merge()([parts_seen(view, thing) for view in views], GRID_SIZE)) == [[*thing[:4], 0.9, 1]]


@pytest.mark.parametrize("whole_image", [False, True])
def test_object_larger_than_a_tile_is_detected_once(whole_image):
    """It extends over three tiles, and covers the middle one completely on one axis."""
    thing = (30, 10, 240, 90, 0.8)
    views = [*ROW, (0, 0, 260, 100)] if whole_image else ROW
    assert rows(Merge()([parts_seen(view, thing) for view in views], ROW_SIZE)) == [[*thing[:4], 0.8, 0]]


def test_object_that_covers_a_tile_completely_is_detected_once():
    thing = (10, 10, 250, 250, 0.8)
    tiles = [(x, y, x + 100, y + 100) for y in (0, 80, 160) for x in (0, 80, 160)]
    assert rows(Merge()([parts_seen(tile, thing) for tile in tiles], (260, 260))) == [[*thing[:4], 0.8, 0]]


def test_side_comes_from_the_whole_image_if_no_tile_shows_the_end():
    """The last tile misses the object, so that only the whole image shows where it ends."""
    found = [parts_seen(ROW[0], (30, 10, 240, 90, 0.8)), parts_seen(ROW[1], (30, 10, 240, 90, 0.7)), seen(ROW[2])]
    found.append(seen((0, 0, 260, 100), (28, 11, 241, 89, 0.4)))
    assert rows(Merge()(found, ROW_SIZE)) == [[30, 10, 241, 90, 0.8, 0]]


@pytest.mark.parametrize("touching_at", [90, 80, 100, 82])
def test_objects_that_touch_both_remain(touching_at):
    """Side by side, they touch in the overlap or at its edges; each tile cuts one of them, or shows none of it."""
    left, right = (50, 20, touching_at, 70, 0.9), (touching_at, 20, 140, 70, 0.8)
    found = [parts_seen(tile, left, right) for tile in ROW]
    assert rows(Merge()(found, ROW_SIZE)) == [[*left, 0], [*right, 0]]


def test_small_object_in_front_of_a_large_one_remains():
    """A rule that compares the intersection with the smaller area would remove it: it lies inside the large box."""
    small, large = (90, 40, 99, 50, 0.6), (20, 10, 170, 90, 0.9)
    found = [parts_seen(tile, small, large) for tile in ROW]
    assert rows(Merge()(found, ROW_SIZE)) == [[*large, 0], [*small, 0]]


def test_box_at_the_edge_of_the_image_is_not_cut():
    """It ends with the image; a larger box of the whole image does not extend it."""
    found = [seen(ROW[2], (200, 20, 260, 70, 0.9)), seen((0, 0, 260, 100), (150, 0, 260, 100, 0.2))]
    assert rows(Merge()(found, ROW_SIZE)) == [[200, 20, 260, 70, 0.9, 0], [150, 0, 260, 100, 0.2, 0]]


def test_parts_without_overlap_remain():
    """Tiles that do not overlap never show the same pixels, so nothing tells whether two parts are of one object."""
    tiles = [(0, 0, 100, 100), (100, 0, 200, 100)]
    found = [parts_seen(tile, (70, 20, 130, 70, 0.9)) for tile in tiles]
    assert rows(Merge()(found, (100, 200))) == [[70, 20, 100, 70, 0.9, 0], [100, 20, 130, 70, 0.9, 0]]


def test_parts_of_different_classes_remain_unless_classes_are_compared():
    found = [seen(ROW[0], (70, 20, 100, 70, 0.9, 1)), seen(ROW[1], (80, 20, 130, 70, 0.8, 2))]
    assert len(Merge()(found, ROW_SIZE)) == 2
    assert rows(Merge(across_classes=True)(found, ROW_SIZE)) == [[70, 20, 130, 70, 0.9, 1]]


def test_overlapping_boxes_of_one_view_remain():
    """Postprocessing has kept both, as soft NMS may; the boxes of the flipped copy are duplicates of them."""
    whole = (0, 0, 260, 100)
    pair = [(10, 10, 50, 50, 0.9), (15, 10, 55, 50, 0.6)]  # IoU 35 / 45
    flipped = [(10, 10, 50, 50, 0.8), (15, 10, 55, 50, 0.5)]
    found = [seen(whole, *pair), seen(whole, *flipped)]
    assert rows(Merge()(found, ROW_SIZE)) == [[*box, 0] for box in pair]


def test_weighted_boxes_by_hand():
    """Sides are averaged with the scores as weights: x1 = (10 * 0.8 + 14 * 0.4) / 1.2 = 11.333; score = 1.2 / 2."""
    whole = (0, 0, 260, 100)
    found = [seen(whole, (10, 10, 50, 50, 0.8)), seen(whole, (14, 10, 54, 50, 0.4))]
    merged = Merge(method="weighted_boxes")(found, ROW_SIZE)
    assert rows(merged) == [[11.333, 10, 51.333, 50, 0.6, 0]]


def test_weighted_score_counts_only_the_views_that_contain_the_box():
    """Of three views, the left tile and the whole image show the object, and one of them detects it: half the score.

    An object that only the whole image shows completely keeps its score, although no tile detects it.
    """
    whole = (0, 0, 260, 100)
    found = [
        seen(ROW[0], (10, 10, 50, 50, 0.8)),
        seen(ROW[2]),
        seen(whole, (90, 10, 200, 90, 0.7, 1)),
    ]
    merged = Merge(method="weighted_boxes")(found, ROW_SIZE)
    assert rows(merged) == [[90, 10, 200, 90, 0.7, 1], [10, 10, 50, 50, 0.4, 0]]


def test_weighted_scores_are_compared_with_the_minimum():
    found = [seen((0, 0, 260, 100), (10, 10, 50, 50, 0.08)), seen((0, 0, 260, 100))]
    assert len(Merge(method="weighted_boxes", min_score=0.05)(found, ROW_SIZE)) == 0  # 0.08 / 2
    assert len(Merge(method="weighted_boxes", min_score=0.03)(found, ROW_SIZE)) == 1


@pytest.mark.parametrize("method", ["nms", "weighted_boxes"])
def test_image_without_detections(method):
    merged = Merge(method=method)([seen(tile) for tile in ROW], ROW_SIZE)
    assert merged.boxes.shape == (0, 4) and len(merged.labels) == 0
