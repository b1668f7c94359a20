import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from retinanet.detection.anchors import AnchorGenerator

ROOT_HALF = math.sqrt(0.5)


def test_one_level_by_hand():
    anchors = AnchorGenerator(strides=(10,), sizes=(8,), scales=(1.0, 2.0), aspect_ratios=(1.0, 4.0))
    # A ratio of 4 halves the width and doubles the height: 4 x 16 at scale 1, 8 x 32 at scale 2.
    cell = [[-4, -4, 4, 4], [-8, -8, 8, 8], [-2, -8, 2, 8], [-4, -16, 4, 16]]
    centres = [(0, 0), (10, 0), (20, 0), (0, 10), (10, 10), (20, 10)]  # x varies fastest
    expected = [[x + x1, y + y1, x + x2, y + y2] for x, y in centres for x1, y1, x2, y2 in cell]
    (level,) = anchors(20, 30)
    assert anchors.num_per_cell == 4
    assert level.shape == (2, 3, 4, 4)  # rows, columns, anchors of a cell, corners
    assert_close(level.view(-1, 4), torch.tensor(expected, dtype=torch.float32))


def test_paper_cell_by_hand():
    first = AnchorGenerator()(64, 64)[0][0, 0]
    sides = [32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]
    expected = [
        [side / root, side * root]  # width, height
        for root in (ROOT_HALF, 1.0, 1 / ROOT_HALF)
        for side in sides
    ]
    assert_close(first[:, 2:] - first[:, :2], torch.tensor(expected))
    assert_close(first[:, 2:], -first[:, :2])


def test_offset_shifts_every_centre_by_a_fraction_of_the_stride():
    plain, moved = AnchorGenerator()(96, 160), AnchorGenerator(offset=0.5)(96, 160)
    for stride, before, after in zip((8, 16, 32, 64, 128), plain, moved, strict=True):
        assert_close(after - before, torch.full_like(before, stride / 2), atol=1e-4, rtol=0)


def test_grid_covers_sizes_that_are_not_a_multiple_of_the_stride():
    levels = AnchorGenerator(scales=(1.0,), aspect_ratios=(1.0,))(333, 500)
    # ceil(333 / stride) * ceil(500 / stride), the size of a feature map after stride-2 convolutions with padding
    assert [tuple(level.shape[:2]) for level in levels] == [(42, 63), (21, 32), (11, 16), (6, 8), (3, 4)]
    x, y = 62 * 8, 41 * 8
    assert_close(levels[0][-1, -1, 0], torch.tensor([x - 16.0, y - 16.0, x + 16.0, y + 16.0]))


def test_anchors_are_cached_per_size():
    anchors = AnchorGenerator()
    assert all(a is b for a, b in zip(anchors(64, 96), anchors(64, 96), strict=True))
    assert anchors(96, 64)[0] is not anchors(64, 96)[0]
    assert_close(anchors(64, 96)[0], AnchorGenerator()(64, 96)[0])


def test_anchors_are_cached_per_device():
    anchors = AnchorGenerator()
    for device in ("cpu", "meta", "cpu"):
        assert {level.device.type for level in anchors(64, 96, device)} == {device}


@pytest.mark.parametrize("size", [(768, 1280), (800, 1344), (480, 640), (333, 500), (130, 97)])
def test_torchvision_rounding_equals_torchvisions_anchors(size):
    height, width = size
    grids = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (8, 16, 32, 64, 128)]
    images = ImageList(torch.zeros(1, 3, height, width), [size])
    (expected,) = _default_anchorgen()(images, [torch.zeros(1, 1, *grid) for grid in grids])
    levels = AnchorGenerator(rounding="torchvision")(height, width)
    assert torch.equal(torch.cat([level.view(-1, 4) for level in levels]), expected)


def test_torchvision_rounding_is_close_to_exact_anchors_on_multiples_of_128():
    exact, rounded = AnchorGenerator()(256, 384), AnchorGenerator(rounding="torchvision")(256, 384)
    difference = torch.cat([(a - b).abs().flatten() for a, b in zip(exact, rounded, strict=True)])
    # A side is truncated by less than 1, scaled by up to 2 ** 0.5, then rounded.
    assert 0 < difference.max() < 1.5
