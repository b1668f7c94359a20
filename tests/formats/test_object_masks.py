import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as reference

from retinanet.formats.object_masks import box_of_segmentation


@given(arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 1)))
def test_box_of_a_mask_equals_that_of_pycocotools(pixels):
    compressed = reference.encode(np.asfortranarray(pixels))
    expected = reference.toBbox(compressed).tolist() if pixels.any() else None
    height, width = pixels.shape
    flat = pixels.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    counts = [0, *runs] if flat[0] else runs  # the first run is outside the object
    assert box_of_segmentation({"size": [height, width], "counts": counts}) == expected
    text = compressed["counts"].decode()
    assert box_of_segmentation({"size": [height, width], "counts": text}) == expected


def test_box_of_a_large_mask_equals_that_of_pycocotools():
    pixels = np.zeros((700, 900), np.uint8)  # long runs, whose compressed counts have several digits
    pixels[100:650, 37:801] = 1
    pixels[300:400, 100:200] = 0
    compressed = reference.encode(np.asfortranarray(pixels))
    text = compressed["counts"].decode()
    assert box_of_segmentation({"size": [700, 900], "counts": text}) == [37, 100, 764, 550]


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1, 2, 4, 2, 4, 8]], [1, 2, 3, 6]),
        ([[1, 2, 4, 2, 4, 8], [0, 5, 1, 5, 1, 6.5]], [0, 2, 4, 6]),
        ([1, 2, 4, 2, 4, 8], [1, 2, 3, 6]),  # a single polygon, not in a list
        ([], None),
        (None, None),
        ([[]], None),
    ],
)
def test_box_of_polygons(segmentation, expected):
    assert box_of_segmentation(segmentation) == expected


@pytest.mark.parametrize(
    "segmentation",
    [
        "text", 3, [[1, 2, 3]], [["1", "2"]], [[1, float("nan")]], [[1, 10**400]], [None], [[True, False]],
        {"counts": [4]}, {"size": [2, 2]}, {"size": [2, 2], "counts": [3]}, {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 0], "counts": []}, {"size": [2, 2], "counts": "oooooooooooooooooo"},
        {"size": [2, 2], "counts": "é"}, {"size": [2, 2], "counts": "P"}, {"size": [2, 2], "counts": [1.5, 2.5]},
        {"size": "22", "counts": [4]},
    ],
)  # fmt: skip
def test_damaged_segmentation_is_a_value_error(segmentation):
    with pytest.raises(ValueError):
        box_of_segmentation(segmentation)
