import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.data.padded_shapes import AspectBucket, PaddedShapes, resized
from tests.helpers.padded_shapes import SHAPES, SIZES, USUAL


@pytest.mark.parametrize(
    ("size", "resized_to", "padded_shape"),
    [
        ((480, 640), (800, 1067), (800, 1088)),  # 4:3 fits into 1.34: 800 * 1.34 = 1072, rounded up to 1088
        ((640, 480), (1067, 800), (1088, 800)),
        ((500, 500), (800, 800), (800, 800)),
        ((100, 150), (800, 1200), (800, 1216)),  # exactly 3:2: 1200, rounded up to 1216
        ((1080, 1920), (750, 1333), (800, 1344)),  # 16:9 exceeds all aspects: 1333, rounded up to 1344
        ((1000, 1), (1333, 1), (1344, 800)),
        ((100, 101), (800, 808), (800, 1088)),
    ],
)
def test_resized_and_padded_shape_at_800_1333(size, resized_to, padded_shape):
    assert resized(*size, 800, 1333) == resized_to
    assert USUAL.padded_shape(USUAL.bucket(*size), 800) == padded_shape


def test_longer_bounds_every_padded_shape():
    # 800 * 1.5 = 1200 would exceed 1000.
    padded_shapes = PaddedShapes(longer=1000, aspects=(1.5,), divisor=32)
    assert padded_shapes.padded_shape(padded_shapes.bucket(100, 150), 800) == (800, 1024)
    assert resized(100, 150, 800, 1000) == (667, 1000)


def test_padded_shape_rounds_like_the_image():
    # 67 / 50 is 1.34 exactly, and 25 * 1.34 is 33.5, which becomes 34 pixels.
    padded_shapes = PaddedShapes(longer=100, aspects=(1.34,), divisor=1)
    assert resized(50, 67, 25, 100) == (25, 34)
    assert padded_shapes.padded_shape(padded_shapes.bucket(50, 67), 25) == (25, 34)


def test_square_image_counts_as_landscape():
    assert USUAL.bucket(7, 7) == AspectBucket(is_landscape=True, position=0)
    assert USUAL.bucket(8, 7) == AspectBucket(is_landscape=False, position=1)


def test_image_keeps_at_least_one_pixel():
    assert resized(1, 100_000, 800, 1333) == (1, 1333)


@settings(max_examples=500, deadline=None)
@given(size=SIZES, setting=SHAPES)
def test_every_image_fits_its_padded_shape(size, setting):
    shorter, padded_shapes = setting
    for side in shorter:
        height, width = resized(*size, side, padded_shapes.longer)
        padded_shape = padded_shapes.padded_shape(padded_shapes.bucket(*size), side)
        assert 1 <= height <= padded_shape[0] and 1 <= width <= padded_shape[1]
        assert padded_shape[0] % padded_shapes.divisor == padded_shape[1] % padded_shapes.divisor == 0
        assert min(height, width) <= side and max(height, width) <= padded_shapes.longer
        # As large as allowed: one of the two bounds is reached.
        assert min(height, width) == side or max(height, width) == padded_shapes.longer


@settings(max_examples=500, deadline=None)
@given(size=SIZES, shorter=st.integers(1, 1200), more=st.integers(0, 1200))
def test_aspect_ratio_is_kept_to_half_a_pixel(size, shorter, more):
    height, width = resized(*size, shorter, shorter + more)
    scale = min(shorter / min(size), (shorter + more) / max(size))
    assert abs(height - size[0] * scale) <= 0.5 or height == 1
    assert abs(width - size[1] * scale) <= 0.5 or width == 1
