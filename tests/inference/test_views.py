import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config.load import load_config
from retinanet.data.padded_shapes import PaddedShapes
from retinanet.formats.images.windows import Window
from retinanet.inference.views import Scale, View, Views, build_views, tile_spans

USUAL = Scale(64, PaddedShapes(longer=128, aspects=[1.5], divisor=32))


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 1200), st.floats(0, 0.9))
def test_tiles_of_a_side_cover_it_and_overlap_enough(length, tile, overlap):
    spans = tile_spans(length, tile, overlap)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(end - start == min(tile, length) for start, end in spans)
    for (start, end), (following, _) in itertools.pairwise(spans):
        assert start < following <= end
        # Rounding may take away half a pixel; neighbouring tiles start at least one pixel apart.
        assert end - following >= min(tile * overlap - 0.5, tile - 1)


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(20, 200), st.floats(0, 0.9), st.booleans())
def test_windows_cover_every_pixel_and_lie_inside(height, width, tile, overlap, whole_image):
    views = Views([USUAL], tile_size=tile, overlap=overlap, whole_image=whole_image)
    windows = views.windows((height, width))
    covered = torch.zeros(height, width, dtype=torch.bool)
    for window in windows:
        assert 0 <= window.x1 < window.x2 <= width and 0 <= window.y1 < window.y2 <= height
        covered[window.y1 : window.y2, window.x1 : window.x2] = True
    assert covered.all()
    assert len(set(windows)) == len(windows)
    is_divided = max(height, width) > tile
    assert (Window(0, 0, width, height) in windows) == (whole_image or not is_divided)
    assert is_divided or len(windows) == 1


def test_last_tile_is_moved_inward():
    assert tile_spans(250, 100, 0.2) == [(0, 100), (80, 180), (150, 250)]
    assert tile_spans(260, 100, 0.2) == [(0, 100), (80, 180), (160, 260)]
    assert tile_spans(100, 100, 0.2) == [(0, 100)]
    assert tile_spans(99, 100, 0.2) == [(0, 99)]
    assert tile_spans(200, 100, 0.0) == [(0, 100), (100, 200)]


def test_image_without_tiles_and_augmentation_has_one_view():
    views = Views([USUAL])
    (view,) = views.of((300, 400))
    assert view.window == Window(0, 0, 400, 300) and not view.is_flipped
    assert (view.planned.shorter, view.planned.longer, view.planned.padded_shape) == (64, 128, (64, 96))
    assert not views.has_several


def test_every_window_is_flipped_at_every_scale():
    larger = Scale(96, PaddedShapes(longer=192, aspects=[1.5], divisor=32))
    views = Views([USUAL, larger], flip=True, tile_size=100)
    seen = [(view.window, view.planned.shorter, view.is_flipped) for view in views.of((100, 180))]
    windows = [Window(0, 0, 180, 100), Window(0, 0, 100, 100), Window(80, 0, 180, 100)]
    assert seen == [(window, side, flip) for window in windows for side in (64, 96) for flip in (False, True)]
    assert {view.planned.padded_shape for view in views.of((100, 180))} <= set(views.all_shapes())


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 40)] * 4), max_size=5), st.integers(0, 9), st.integers(0, 9))
def test_flipping_boxes_twice_gives_the_same_boxes(corners, x, y):
    boxes = torch.tensor(corners, dtype=torch.float32).view(-1, 4)
    inside = View(Window(0, 0, 40, 30), True, USUAL.planned((30, 40)))
    assert torch.equal(inside.boxes_in_image(inside.boxes_in_image(boxes)), boxes)
    moved = View(Window(x, y, x + 40, y + 30), True, USUAL.planned((30, 40)))
    assert torch.equal(moved.boxes_in_image(boxes), inside.boxes_in_image(boxes) + torch.tensor([x, y, x, y]))


def test_box_of_a_flipped_tile_by_hand():
    """The tile is 40 pixels wide: from its right edge, the box extends from 5 to 15, so from its left 25 to 35."""
    view = View(Window(100, 200, 140, 230), True, USUAL.planned((30, 40)))
    assert view.boxes_in_image(torch.tensor([[5.0, 1.0, 15.0, 9.0]])).tolist() == [[125, 201, 135, 209]]


def test_config_sets_the_views():
    overrides = ["data.resize.shorter=60", "data.resize.longer=90", "inference.tile.size=100"]
    overrides += ["inference.tile.overlap=0.5", "inference.tile.whole_image=false"]
    overrides += ["inference.augment.flip=true", "inference.augment.scales=[0.5, 2]"]
    views = build_views(load_config("quickstart", overrides))
    assert [(scale.shorter, scale.padded_shapes.longer) for scale in views.scales] == [(60, 90), (30, 45), (120, 180)]
    assert (views.flip, views.tile_size, views.overlap, views.whole_image) == (True, 100, 0.5, False)
    assert views.has_several
    assert not build_views(load_config("quickstart", [])).has_several


@pytest.mark.parametrize("overrides", ["inference.augment.flip=true", "inference.augment.scales=[2]"])
def test_augmentation_means_several_views(overrides):
    assert build_views(load_config("quickstart", [overrides])).has_several
