"""Scaling of samples that are not 8-bit, with hand-computed numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from retinanet.formats.images.value_range import (
    Samples,
    automatic_range,
    automatic_ranges,
    band_ranges,
    bounds,
    scale_to_uint8,
)
from tests.helpers.image_files import IMAGE, read, tiff


def samples(values, dtype, **options):
    array = np.array(values, dtype=dtype).reshape(1, -1, 1)
    return Samples(array, **{"bits": 8 * array.dtype.itemsize} | options)


@pytest.mark.parametrize(
    ("maximum", "high"),
    [
        *[(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (1728, 4095), (4095, 4095), (4096, 16383)],
        *[(16383, 16383), (16384, 65535), (65535, 65535)],
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "float32", "float64"])
def test_auto_ends_at_the_smallest_depth_that_contains_the_maximum(dtype, maximum, high):
    if dtype.startswith("float") and maximum <= 1:
        high = 1
    assert automatic_range(samples([0, maximum], dtype)) == (0, high)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], (0, 1)),
        ([0.1, 0.2], (0, 1)),  # not stretched: a dark image stays dark
        ([0.0, 1.01], (0, 255)),
        ([-0.5, 0.5], (-0.5, 0.5)),
        ([-9.0, -3.0], (-9, -3)),
        ([0.0, 65536.0], (0, 65536)),
        ([float("nan"), float("inf"), 0.5], (0, 1)),
        ([float("nan")], (0, 1)),
    ],
)
def test_auto_of_floating_point(values, expected):
    assert automatic_range(samples(values, np.float32)) == expected


def test_auto_of_signed_integers():
    assert automatic_range(samples([-1024, 0, 3071], np.int16)) == (-1024, 3071)  # a CT image
    assert automatic_range(samples([0, 3071], np.int16)) == (0, 4095)


def test_declared_depth_is_the_range():
    assert automatic_range(samples([0, 3], np.uint16, bits=12)) == (0, 4095)


def test_pixels_without_data_are_ignored():
    values = samples([-9999, 10, 200], np.float32, nodata=-9999.0)
    assert bounds(values) == (10, 200)
    assert automatic_range(values) == (0, 255)
    assert scale_to_uint8(values, "auto").ravel().tolist() == [0, 10, 200]
    assert bounds(samples([7, 7], np.uint16, nodata=7.0)) is None


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_ranges_of_parts_are_those_of_the_whole(data):
    dtype = data.draw(st.sampled_from(["u1", "i2", "u2", "f4"]))
    shape = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5))
    values = data.draw(arrays.arrays(dtype, shape))
    whole = Samples(
        values, bits=data.draw(st.sampled_from([8, 12, 16])), nodata=data.draw(st.sampled_from([None, 0.0]))
    )
    parts = [whole._replace(values=part) for part in np.array_split(values, min(3, len(values)))]
    assert automatic_ranges(parts) == band_ranges(whole, "auto")
    each = whole.separate() if values.shape[2] > 3 else [whole] * values.shape[2]
    assert automatic_ranges(parts) == [automatic_range(band) for band in each]


def test_scaled_values():
    # 1728 / 4095 * 255 = 107.6; 2048 / 4095 * 255 = 127.53
    assert scale_to_uint8(samples([0, 1728, 2048, 4095], np.uint16), "auto").ravel().tolist() == [0, 108, 128, 255]
    # (v - 1000) / 1000 * 255: 1100 gives 25.5, which is rounded up
    scaled = scale_to_uint8(samples([0, 1000, 1100, 2000, 2001, 65535], np.uint16), (1000, 2000))
    assert scaled.ravel().tolist() == [0, 0, 26, 255, 255, 255]
    scaled = scale_to_uint8(samples([-2, -1, 0, 1, 2], np.int16), (-1, 1))
    assert scaled.ravel().tolist() == [0, 0, 128, 255, 255]
    scaled = scale_to_uint8(samples([0.5, float("nan"), float("inf"), float("-inf")], np.float32), "auto")
    assert scaled.ravel().tolist() == [128, 0, 255, 0]


def test_constant_negative_image_is_black():
    assert scale_to_uint8(samples([-5, -5], np.int16), "auto").ravel().tolist() == [0, 0]


def test_zero_is_white():
    values = samples([0, 51, 255], np.uint16, zero_is_white=True)
    assert scale_to_uint8(values, "auto").ravel().tolist() == [255, 204, 0]
    values = samples([0, 51, 255], np.uint8, zero_is_white=True)
    assert scale_to_uint8(values, "auto").ravel().tolist() == [255, 204, 0]


def test_one_range_for_all_channels():
    values = np.array([[[10, 100, 1000]]], dtype=np.uint16)  # 10 / 1023 * 255 = 2.49, 24.9, 249.3
    assert scale_to_uint8(Samples(values, bits=16), "auto").tolist() == [[[2, 25, 249]]]


@settings(max_examples=100, deadline=None)
@given(
    values=arrays.arrays(
        st.sampled_from(["u2", "i2", "u4", "i4", "f4", "f8"]),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)),
    ),
    value_range=st.one_of(st.just("auto"), st.tuples(st.floats(-1e6, 0), st.floats(1, 1e6))),
)
def test_scaling_keeps_the_order_of_samples(values, value_range):
    scaled = scale_to_uint8(Samples(values, bits=8 * values.dtype.itemsize), value_range)
    assert scaled.dtype == np.uint8 and scaled.shape == values.shape
    order = np.argsort(values, axis=None)  # NaN last
    numbers = ~np.isnan(values.ravel()[order]) if values.dtype.kind == "f" else slice(None)
    assert (np.diff(scaled.ravel()[order][numbers].astype(int)) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(low=st.integers(0, 60000), width=st.integers(1, 5535))
def test_lookup_table_for_16_bits_agrees_with_other_types(low, width):
    every = np.arange(1 << 16).reshape(-1, 1, 1)
    as_16 = scale_to_uint8(Samples(every.astype(np.uint16), bits=16), (low, low + width))
    assert np.array_equal(as_16, scale_to_uint8(Samples(every.astype(np.int64), bits=64), (low, low + width)))


def test_large_images_are_scaled_in_blocks_without_seams():
    values = np.arange(3_000_000, dtype=np.float32).reshape(3000, 1000, 1)
    expected = np.floor(values.astype(np.float64) / 2_999_999 * 255 + 0.5)
    assert np.array_equal(scale_to_uint8(Samples(values, bits=32), "auto"), expected)


def test_8_bit_images_are_not_scaled(tmp_path):
    for file_format in ("PNG", "JPEG", "TIFF"):
        IMAGE.copy().save(tmp_path / "image", file_format)
        assert np.array_equal(read(tmp_path / "image", value_range=(0, 10)), read(tmp_path / "image"))


def test_value_range_of_a_file(tmp_path):
    (tmp_path / "image").write_bytes(tiff(np.array([[0, 1000, 1500, 2000]]), dtype="<u2"))
    assert read(tmp_path / "image")[..., 0].tolist() == [[0, 62, 93, 125]]  # of 4095: 62.3, 93.4, 124.5
    assert read(tmp_path / "image", value_range=(1000, 2000))[..., 0].tolist() == [[0, 0, 128, 255]]
