"""Reduction by area averaging, compared with a loop over the pixels of the result and with `interpolate`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from retinanet.formats.images import reduced
from retinanet.formats.images.reduced import fitting_size, read_reduced
from retinanet.formats.images.windows import DecodedImage, Window


def noise(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))


def test_hand_computed_means():
    image = torch.tensor([[[0, 2, 10], [4, 6, 20]]], dtype=torch.uint8)
    # Columns 0 to 1.5 touch the first two pixels: (0 + 2 + 4 + 6) / 4 = 3. Columns 1.5 to 3 touch the last two:
    # (2 + 10 + 6 + 20) / 4 = 9.5, which is rounded up.
    assert read_reduced(DecodedImage(image), (1, 2)).tolist() == [[[3, 10]]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_size_equals_a_loop_over_the_result(height, width, data):
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    image = noise(height, width)
    expected = np.zeros((3, *size))
    for y in range(size[0]):
        rows = slice(math.floor(y * height / size[0]), math.ceil((y + 1) * height / size[0]))
        for x in range(size[1]):
            columns = slice(math.floor(x * width / size[1]), math.ceil((x + 1) * width / size[1]))
            expected[:, y, x] = image[:, rows, columns].double().mean(dim=(1, 2)).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduced, "BAND_PIXELS", data.draw(st.sampled_from([1, 100, 10**6]), label="pixels in a band"))
        found = read_reduced(DecodedImage(image), size)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.floor(expected + 0.5 + 1e-9))


def test_a_window_is_reduced_like_an_image_of_its_own():
    image = noise(90, 70)
    found = read_reduced(DecodedImage(image), (13, 17), Window(5, 20, 61, 88))
    area = interpolate(image[None, :, 20:88, 5:61].double(), (13, 17), mode="area")[0]
    assert (found - area).abs().max() <= 0.5 + 1e-9


def test_the_original_size_returns_the_pixels():
    image = noise(9, 7)
    assert torch.equal(read_reduced(DecodedImage(image), (9, 7)), image)


def test_reading_is_in_bands_of_rows(monkeypatch):
    class Recorded(DecodedImage):
        def read(self, window):
            windows.append(window)
            return super().read(window)

    windows = []
    monkeypatch.setattr(reduced, "BAND_PIXELS", 50 * 100)
    read_reduced(Recorded(noise(1000, 100)), (100, 10))
    assert max(window.size[0] for window in windows) == 50
    assert [window.y1 for window in windows] == list(range(0, 1000, 50))


def test_fitting_sizes():
    assert fitting_size((3000, 4000), 1000) == (750, 1000)
    assert fitting_size((300, 400), 1000) == (300, 400)
    assert fitting_size((10_000, 1), 100) == (100, 1)
