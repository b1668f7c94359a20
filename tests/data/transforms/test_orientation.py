import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from retinanet.data.transforms.orientation import Flip, Rotate90, VerticalFlip, flip, rotate90, vertical_flip
from tests.helpers.samples import (
    apply,
    assert_same_sample,
    assert_valid,
    assert_white_exactly_in,
    grey_sample,
    noise_sample,
)

BOXES = [[2, 1, 12, 6], [0, 0, 20, 10]]  # in an image of 20 x 10


def test_flip_mirrors_boxes():
    before = grey_sample(10, 20, BOXES)
    result = apply(Flip(1.0), before)
    assert result.boxes.tolist() == [[8, 1, 18, 6], [0, 0, 20, 10]]  # 20 - 12 = 8, 20 - 2 = 18
    assert torch.equal(result.image, before.image.flip(2))
    assert result.labels.tolist() == [0, 1] and result.is_crowd.tolist() == [False, True]


def test_vertical_flip_mirrors_boxes():
    before = grey_sample(10, 20, BOXES)
    result = apply(VerticalFlip(1.0), before)
    assert result.boxes.tolist() == [[2, 4, 12, 9], [0, 0, 20, 10]]  # 10 - 6 = 4, 10 - 1 = 9
    assert torch.equal(result.image, before.image.flip(1))
    assert result.labels.tolist() == [0, 1] and result.is_crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        # Anticlockwise, (x, y) in a width of 20 moves to (y, 20 - x): (2, 1) to (1, 18), (12, 6) to (6, 8).
        (90, [[1, 8, 6, 18], [0, 0, 10, 20]]),
        (180, [[8, 4, 18, 9], [0, 0, 20, 10]]),  # (20 - x, 10 - y)
        (270, [[4, 2, 9, 12], [0, 0, 10, 20]]),  # (10 - y, x)
    ],
)
def test_rotation_turns_boxes_and_pixels(angle, expected):
    before = grey_sample(10, 20, BOXES[:1])
    result = rotate90(grey_sample(10, 20, BOXES), angle)
    assert result.boxes.tolist() == expected
    turned = rotate90(before, angle)
    assert turned.size == ((10, 20) if angle == 180 else (20, 10))
    assert_white_exactly_in(turned.image, turned.boxes[0], blur=0)
    assert torch.equal(turned.image, F.rotate(before.image, angle, expand=True))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(3, 30), width=st.integers(3, 30))
def test_four_quarter_turns_and_two_flips_are_the_identity(seed, height, width):
    before = noise_sample(seed, height, width)
    before = before._replace(boxes=before.boxes.mul(256).round().div(256))  # so that subtractions are exact
    for undone in (
        rotate90(rotate90(rotate90(rotate90(before, 90), 90), 90), 90),
        rotate90(rotate90(before, 270), 90),
        rotate90(rotate90(before, 180), 180),
        flip(flip(before)),
        vertical_flip(vertical_flip(before)),
        rotate90(vertical_flip(flip(before)), 180),
        # A quarter turn of the mirror image is the mirror image of a turn the other way.
        flip(rotate90(flip(rotate90(before, 90)), 90)),
    ):
        assert_same_sample(undone, before)
        assert_valid(undone)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(3, 30), width=st.integers(3, 30))
def test_flips_equal_those_of_torchvision(seed, height, width):
    before = noise_sample(seed, height, width)
    boxes = tv_tensors.BoundingBoxes(before.boxes, format="XYXY", canvas_size=before.size)
    assert torch.equal(flip(before).boxes, F.horizontal_flip(boxes).as_subclass(torch.Tensor))
    assert torch.equal(vertical_flip(before).boxes, F.vertical_flip(boxes).as_subclass(torch.Tensor))


@pytest.mark.parametrize("kind", [Flip, VerticalFlip, lambda p: Rotate90(p, [180])])
def test_probability(kind):
    before = grey_sample(4, 9, [[0, 0, 2, 2]])
    torch.manual_seed(0)
    changed = sum(apply(kind(0.25), before).boxes.tolist() != before.boxes.tolist() for _ in range(400))
    assert 70 < changed < 130  # mean 100, standard deviation 9
    assert all(apply(kind(0.0), before) is before for _ in range(50))


def test_only_the_given_angles_are_drawn():
    before = grey_sample(4, 9, [[0, 0, 2, 1]])
    torch.manual_seed(0)
    found = {tuple(apply(Rotate90(1.0, [90, 270]), before).boxes[0].tolist()) for _ in range(60)}
    assert found == {(0, 7, 1, 9), (3, 0, 4, 2)}  # in the lower left or upper right corner
