import pytest
import torch
from torchvision.transforms import v2

from retinanet.data.transforms.pixels import Blur, Color, Erase, erase
from retinanet.data.transforms.sample import FILL, Window
from tests.helpers.samples import apply, assert_same_sample, assert_valid, grey_sample, noise_sample


def test_colour_transform_changes_only_pixels():
    before = grey_sample(10, 20, [[2, 1, 12, 6]])
    after = apply(Color(v2.ColorJitter(brightness=0.5)), before, seed=0)
    assert torch.equal(after.boxes, before.boxes) and not torch.equal(after.image, before.image)
    assert torch.equal(apply(Color(v2.ColorJitter()), before).image, before.image)


def test_photometric_distortion_may_exchange_channels():
    before = grey_sample(4, 4, [])
    before.image[0] = 200
    channels = Color(v2.RandomPhotometricDistort((1, 1), (1, 1), (1, 1), (0, 0), p=1.0))
    brightest = {int(apply(channels, before, seed=seed).image[:, 0, 0].argmax()) for seed in range(20)}
    assert brightest == {0, 1, 2}


def test_blur_spreads_a_point_by_the_normal_distribution():
    before = grey_sample(41, 41, [])
    before.image.zero_()
    before.image[:, 20, 20] = 255
    widths = []
    for seed in range(30):
        spread = apply(Blur(1.0, 2.0), before, seed=seed).image[0].double()
        assert spread.argmax() == 20 * 41 + 20
        assert torch.equal(spread, spread.T)
        # The value at the centre of a normal distribution in the plane is 1 / (2 pi sigma^2), for sigma >= 1/2.
        widths.append((255 / spread.max().item() / (2 * torch.pi)) ** 0.5)
    assert max(widths) < 2.1 and min(widths) < 0.5 and max(widths) > 1.7
    assert apply(Blur(0.0, 2.0), before) is before


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (50, 1)])
def test_blur_of_tiny_images(size):
    for seed in range(5):
        assert apply(Blur(1.0, 5.0), grey_sample(*size, []), seed=seed).size == size


def test_erased_pixels_are_filled_and_covered_objects_removed():
    boxes = [
        [0, 0, 10, 10],  # 7 of 10 columns are covered: kept
        [0, 10, 10, 18],  # also 70%: kept
        [2, 2, 10, 9],  # 7 of 8 columns: removed
        [2, 2, 10, 9],  # a crowd region: kept
        [12, 0, 20, 20],  # beside it
    ]
    before = grey_sample(20, 20, boxes, is_crowd=[False, False, False, True, False])
    result = erase(before, Window(top=0, left=3, height=20, width=7))
    assert result.labels.tolist() == [0, 1, 3, 4] and result.is_crowd.tolist() == [False, False, True, False]
    assert torch.equal(result.boxes, before.boxes[[0, 1, 3, 4]])
    is_changed = (result.image != before.image).any(dim=0)
    assert is_changed[:, 3:10].all() and not is_changed[:, :3].any() and not is_changed[:, 10:].any()
    assert result.image[:, 5, 5].tolist() == list(FILL)


def test_erased_area_is_within_its_limits():
    before = grey_sample(50, 80, [])
    areas = [(apply(Erase(1.0, 0.3), before, seed=seed).image[0] == FILL[0]).sum().item() / 4000 for seed in range(100)]
    assert 0.015 < min(areas) < 0.04 and 0.25 < max(areas) < 0.32  # up to rounding of the sides
    assert apply(Erase(0.0, 0.3), before) is before


def test_erasing_keeps_samples_valid():
    for seed in range(20):
        before = noise_sample(seed)
        result = apply(Erase(1.0, 1.0), before, seed=seed)
        assert_valid(result)
        assert result.is_crowd.sum() == before.is_crowd.sum()
    for size in ((1, 1), (1, 30), (30, 1)):
        assert apply(Erase(1.0, 0.02), grey_sample(*size, []), seed=0).size == size
    assert_same_sample(noise_sample(19), before)  # the input is unchanged
