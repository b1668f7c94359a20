import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.config import AnchorConfig
from retinanet.detection.anchor_fit import MAX_RATIO, BoxPlacement, cell_sides, fit_score, fit_shapes
from retinanet.detection.anchors import AnchorGenerator
from retinanet.detection.boxes import overlap
from tests.helpers.boxes import random_boxes

ONE_SHAPE = AnchorConfig(scales=(1.0,), aspect_ratios=(1.0,))


def placed(boxes, cfg: AnchorConfig, shape=(128, 160)) -> BoxPlacement:
    return BoxPlacement.of(torch.as_tensor(boxes, dtype=torch.float32), AnchorGenerator(**cfg.model_dump())(*shape))


def boxes_of(sides: list[tuple[float, float]], cfg: AnchorConfig) -> BoxPlacement:
    """Boxes of the given widths and heights, centred on an anchor of every level."""
    return placed([(64 - w / 2, 64 - h / 2, 64 + w / 2, 64 + h / 2) for w, h in sides], cfg)


@pytest.mark.parametrize("shape", [(128, 160), (96, 40), (7, 5)], ids=str)
@pytest.mark.parametrize("rounding", ["none", "torchvision"])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_best_iou_is_the_maximum_over_all_anchors(shape, rounding, offset):
    cfg = AnchorConfig(sizes=(10, 30, 50, 100, 150), offset=offset, rounding=rounding)
    # Some boxes are outside the grid, some tiny, some larger than every anchor.
    boxes = torch.cat([random_boxes(60, seed=0), random_boxes(20, seed=1, smallest=0.5) / 20, random_boxes(20, 2) * 4])
    anchors = torch.cat([level.reshape(-1, 4) for level in AnchorGenerator(**cfg.model_dump())(*shape)])
    intersection, union = overlap(boxes[:, None], anchors)
    expected = (intersection / union).amax(dim=1)
    torch.testing.assert_close(placed(boxes, cfg, shape).best_iou(cell_sides(cfg)), expected, rtol=0, atol=1e-6)


def test_best_iou_of_a_box_next_to_an_anchor_centre():
    # The nearest centre of the finest level is (64, 64). The anchor of 32 pixels and the box of 32 x 16 around (66, 64)
    # overlap by 30 x 16: 480 / (1024 + 512 - 480).
    cfg = AnchorConfig(sizes=(32, 1000, 1000, 1000, 1000), scales=(1.0,), aspect_ratios=(1.0,))
    boxes = placed([(50, 56, 82, 72)], cfg)
    assert boxes.best_iou(cell_sides(cfg)).tolist() == pytest.approx([480 / 1056])
    # The IoU of 0.45 reaches one of the four levels; a box equal to the anchor reaches all of them.
    assert fit_score(boxes, cfg) == pytest.approx(1 / 4 + 0.1 * 480 / 1056)
    boxes = placed([(50, 56, 82, 72), (48, 48, 80, 80)], cfg)
    assert fit_score(boxes, cfg) == pytest.approx((1 / 4 + 1) / 2 + 0.1 * (480 / 1056 + 1) / 2)


@pytest.mark.parametrize(("strides", "expected"), [(1, 0.252), (2, 1.009), (4, 4.036)])
def test_mean_number_of_anchors_that_match_an_object_of_their_shape(strides, expected):
    """Derivation of MIN_STRIDES: 0.252 (size / stride)^2 anchors have an IoU of at least 0.5."""
    size = 8.0 * strides
    offsets = (torch.arange(400) + 0.5) / 50  # 0 to 8 pixels, a cell of the finest level
    x, y = torch.meshgrid(offsets, offsets, indexing="ij")
    count = torch.zeros_like(x)
    for column, row in itertools.product(range(-4, 5), repeat=2):
        overlap_x = (size - (x - 8 * column).abs()).clamp(min=0)
        overlap_y = (size - (y - 8 * row).abs()).clamp(min=0)
        intersection = overlap_x * overlap_y
        count += intersection / (2 * size**2 - intersection) >= 0.5
    assert count.mean().item() == pytest.approx(expected, rel=0.02)


def test_fit_finds_the_shape_of_the_objects():
    # All objects are 40 x 20 pixels and centred on anchors: the perfect anchor has ratio 0.5 and size sqrt(800) = 28.3.
    boxes = boxes_of([(40, 20)] * 3, ONE_SHAPE)
    assert boxes.best_iou(cell_sides(ONE_SHAPE)).max() < 0.7
    fitted = fit_shapes(boxes, ONE_SHAPE)
    assert boxes.best_iou(cell_sides(fitted)).min() > 0.95
    assert fitted.aspect_ratios[0] == pytest.approx(0.5, abs=0.03)


def test_fit_finds_two_shapes_with_two_ratios():
    current = AnchorConfig(scales=(1.0,), aspect_ratios=(0.9, 1.1))
    boxes = boxes_of([(60, 20), (20, 60)] * 5, current)
    fitted = fit_shapes(boxes, current)
    assert boxes.best_iou(cell_sides(fitted)).min() > 0.93
    assert fitted == fit_shapes(boxes, current)  # deterministic
    assert fitted.aspect_ratios == pytest.approx((1 / 3, 3), rel=0.06)


def test_fit_does_not_propose_anchors_below_two_strides():
    # Objects of 4 pixels: anchors of 4 pixels would match best, but 16 is the smallest on the level with stride 8.
    boxes = boxes_of([(4, 4)] * 5, ONE_SHAPE)
    assert fit_shapes(boxes, ONE_SHAPE).sizes[0] == 16


def test_fit_keeps_anchors_that_cannot_be_improved():
    # The box equals an anchor of the second level, so no other anchor can be better.
    boxes = boxes_of([(64, 64)], ONE_SHAPE)
    assert fit_shapes(boxes, ONE_SHAPE) == ONE_SHAPE


SIDES = st.lists(st.tuples(st.floats(0.5, 150), st.floats(0.5, 150)), min_size=1, max_size=20)
FACTORS = st.lists(st.floats(0.3, 4), min_size=1, max_size=3).map(tuple)


@settings(max_examples=4, deadline=None)
@given(sides=SIDES, scales=FACTORS, ratios=FACTORS, offset=st.sampled_from([0.0, 0.5]))
def test_fitted_anchors_keep_their_number_and_stay_in_bounds(sides, scales, ratios, offset):
    current = AnchorConfig(scales=scales, aspect_ratios=ratios, offset=offset)
    boxes = boxes_of(sides, current)
    fitted = fit_shapes(boxes, current)
    assert (fitted.strides, fitted.offset, fitted.rounding) == (current.strides, offset, "none")
    assert (len(fitted.scales), len(fitted.aspect_ratios)) == (len(scales), len(ratios))
    assert scales[0] in fitted.scales
    assert all(1 / MAX_RATIO - 0.01 < ratio <= MAX_RATIO for ratio in fitted.aspect_ratios)
    smallest, largest = min(fitted.scales), max(fitted.scales)
    for size, stride in zip(fitted.sizes, fitted.strides, strict=True):
        assert size == int(size)
        assert size * smallest >= 2 * stride
        # If the scales are more than a factor of 4 apart, only the lower bound holds.
        assert size * largest <= 8 * stride or largest / smallest > 3.5
