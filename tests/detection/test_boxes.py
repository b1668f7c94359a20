import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from retinanet.detection.boxes import MAX_LOG_SCALE, area, clip, decode, encode


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 500
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 300], dim=1)


@st.composite
def box_lists(draw, min_side=0.0):
    """1 to 8 boxes of up to 1000 pixels, including flat ones if `min_side` is 0."""
    place, side = st.floats(-100, 1000, width=32), st.floats(min_side, 1000, width=32)
    rows = draw(st.lists(st.tuples(place, place, side, side), min_size=1, max_size=8))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows])


def test_area_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 3.0], [9.0, 9.0, 9.0, 12.0]])
    assert_close(area(boxes), torch.tensor([16.0, 2.0, 0.0]))


def test_encode_and_decode_by_hand():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 20.0]])  # 10 x 20 around (5, 10)
    boxes = torch.tensor([[2.0, 1.0, 22.0, 11.0]])  # 20 x 10 around (12, 6)
    deltas = torch.tensor([[0.7, -0.2, math.log(2), -math.log(2)]])
    assert_close(encode(boxes, anchors), deltas)
    assert_close(decode(deltas, anchors), boxes)
    assert_close(decode(torch.zeros(1, 4), anchors), anchors)


@pytest.mark.parametrize("seed", range(3))
def test_encode_and_decode_equal_torchvisions_box_coder(seed):
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    boxes, anchors = random_boxes(64, seed), random_boxes(64, seed + 100)
    assert_close(encode(boxes, anchors), coder.encode_single(boxes, anchors), rtol=1e-5, atol=1e-5)
    deltas = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)) * 3  # some beyond the clamp
    assert (deltas[:, 2:] > MAX_LOG_SCALE).any()
    assert_close(decode(deltas, anchors), coder.decode_single(deltas, anchors), rtol=1e-5, atol=1e-3)


@settings(deadline=None, max_examples=50)
@given(box_lists(min_side=1.0), box_lists(min_side=20.0))
def test_decode_inverts_encode(boxes, anchors):
    anchors = anchors[:1].expand_as(boxes)  # no box side is more than 50 times the anchor's: below the clamp
    assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-2)


def test_decode_clamps_growth_but_not_shrinking():
    anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0]]).expand(3, 4)
    deltas = torch.tensor([[0, 0, 1e4, 1e4], [0, 0, MAX_LOG_SCALE, MAX_LOG_SCALE], [0, 0, -10, -10]])
    boxes = decode(deltas, anchors)
    # exp(log(1000 / 16)) * 16 = 1000 around (8, 8)
    assert_close(boxes[:2], torch.tensor([[-492.0, -492.0, 508.0, 508.0]]).expand(2, 4), rtol=1e-5, atol=1e-2)
    assert_close(boxes[2, 2:] - boxes[2, :2], torch.full((2,), 16 * math.exp(-10)), rtol=0, atol=1e-5)


def test_clip_uses_the_size_of_each_image():
    boxes = torch.tensor([[[-5.0, -6.0, 50.0, 60.0], [30.0, 40.0, 35.0, 45.0]]]).repeat(2, 1, 1)
    sizes = torch.tensor([[20, 32], [100, 10]])  # height, width
    expected = [
        [[0.0, 0.0, 32.0, 20.0], [30.0, 20.0, 32.0, 20.0]],
        [[0.0, 0.0, 10.0, 60.0], [10.0, 40.0, 10.0, 45.0]],
    ]
    assert_close(clip(boxes, sizes), torch.tensor(expected))
