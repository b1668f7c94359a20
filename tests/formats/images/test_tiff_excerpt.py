"""Excerpts of TIFF files are themselves TIFF files, which Pillow decodes to the pixels of their rectangle."""

import io

import numpy as np
import pytest
from PIL import Image

from retinanet.formats.images.tiff import read_tiff
from retinanet.formats.images.tiff_excerpt import TiffExcerpts
from tests.helpers.tiff_files import by_libtiff, tiff_of

RGB = np.random.default_rng(0).integers(0, 256, (300, 530, 3), dtype=np.uint8)


def excerpts(data, *, max_pixels=10**6):
    file = io.BytesIO(data)
    return TiffExcerpts(file, read_tiff(file), max_pixels=max_pixels)


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content), formats=("TIFF",)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize(
    ("blocks", "size"),
    [
        ({"tile": (64, 96)}, (256, 288)),  # 4 x 3 tiles have at least 256 x 256 pixels
        ({"tile": (272, 16)}, (272, 256)),
        ({"rows": 7}, (259, 530)),  # 37 strips
        ({"rows": 300}, (300, 530)),
    ],
)
def test_rectangles_of_the_grid(compression, blocks, size):
    compress, tags = by_libtiff(compression)
    grid = excerpts(tiff_of(RGB, photometric=2, compress=compress, tags=tags, **blocks))
    assert grid.size == size
    for row, column in ((0, 0), (0, 529 // size[1]), (299 // size[0], 529 // size[1])):
        top, left = row * size[0], column * size[1]
        assert np.array_equal(decoded(grid.cut(row, column)), RGB[top : top + size[0], left : left + size[1]])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (300, 256),  # a single strip, which may be divided anywhere
        (290, 290),  # two parts of 145 rows are the largest equal ones; they are read together
        (200, 400),  # not divided; two strips are read together
        (1, 256),
    ],
)
def test_uncompressed_strips_are_divided_evenly(rows, expected):
    grid = excerpts(tiff_of(RGB, photometric=2, rows=rows))
    assert grid.size == (expected, 530)
    found = [decoded(grid.cut(row, 0)) for row in range(-(-300 // grid.size[0]))]
    assert np.array_equal(np.concatenate(found), RGB)


def test_excerpts_are_no_larger_than_allowed():
    data = tiff_of(RGB, photometric=2, tile=(16, 16), deflate=True)
    assert excerpts(data).size == (256, 256)
    assert excerpts(data, max_pixels=16 * 64).size == (16, 64)
    with pytest.raises(ValueError, match="tiles are 16 x 16 pixels"):
        excerpts(data, max_pixels=255)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ([(259, 3, [6])], "JPEG as in TIFF 6.0"),
        ([(324, 4, [8])], "lack positions"),
        ([(347, 7, bytes(2**20 + 1))], "its tag 347 has 1048577 bytes"),
    ],
)
def test_files_that_cannot_be_divided(tags, words):
    with pytest.raises(ValueError, match=words):
        excerpts(tiff_of(RGB, photometric=2, tile=(64, 64), deflate=True, tags=tags))
