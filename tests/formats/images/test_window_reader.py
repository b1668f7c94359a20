"""Opening files to read windows: which are decoded at once, which are rejected, and files larger than the memory."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.errors import InputError
from retinanet.formats.images import window_reader
from retinanet.formats.images.reader import read_image
from retinanet.formats.images.settings import ImageSettings
from retinanet.formats.images.tiff_windows import TiffWindows
from retinanet.formats.images.window_reader import open_windows
from retinanet.formats.images.windows import DecodedImage, Window
from tests.helpers.image_files import HEIGHT, IMAGE, NOISE, WIDE, WIDTH
from tests.helpers.tiff_files import tiff_of

SETTINGS = ImageSettings(max_pixels=100_000_000)
WINDOW = Window(3, 2, 30, 20)
PART = torch.tensor(NOISE[2:20, 3:30]).permute(2, 0, 1)


def saved(file_format, **options):
    file = io.BytesIO()
    IMAGE.copy().save(file, file_format, **options)
    return file.getvalue()


def test_small_images_are_decoded_at_once():
    data = saved("TIFF")
    with open_windows(data, SETTINGS, whole_pixels=HEIGHT * WIDTH) as source:
        assert isinstance(source, DecodedImage)
        assert torch.equal(source.read(WINDOW), PART)
    with open_windows(data, SETTINGS, whole_pixels=HEIGHT * WIDTH - 1) as source:
        assert isinstance(source, TiffWindows)
        assert torch.equal(source.read(WINDOW), PART)


@pytest.mark.parametrize(
    ("data", "reason"), [(saved("PNG"), "its format is PNG"), (saved("BMP"), "its format is BMP")], ids=["PNG", "BMP"]
)
def test_formats_without_windows_are_decoded_at_once_with_a_note_if_they_are_large(data, reason, caplog, monkeypatch):
    caplog.set_level("INFO")
    for noted_pixels in (HEIGHT * WIDTH, HEIGHT * WIDTH - 1):
        assert caplog.text == ""
        monkeypatch.setattr(window_reader, "NOTED_PIXELS", noted_pixels)
        with open_windows(data, SETTINGS, whole_pixels=0) as source:
            assert isinstance(source, DecodedImage)
            assert torch.equal(source.read(WINDOW), PART)
    assert reason in caplog.text and "gdal_translate -co TILED=YES" in caplog.text


def test_too_large_images_that_cannot_be_read_in_windows_are_rejected():
    for data in (saved("PNG"), saved("TIFF", compression="tiff_lzw", tiffinfo={278: HEIGHT})):  # a single strip
        with pytest.raises(InputError, match=r"714 pixels \(34 x 21\), expected at most 700.*(gdal_translate|shrink)"):
            with open_windows(data, ImageSettings(max_pixels=700)):
                pass


def test_bands_of_several_files(tmp_path):
    IMAGE.copy().save(tmp_path / "a.png")
    (tmp_path / "a_ir.tif").write_bytes(tiff_of(WIDE.astype(np.uint16), tile=(16, 16)))
    options = {"band_files": ("{stem}.png", "{stem}_ir.tif"), "max_pixels": 10_000}
    for bands, channels in (((5, 1, 4), 3), ((4,), 3), ((7, 6, 2, 1), 4)):
        whole = read_image(tmp_path / "a.png", bands=bands, channels=channels, **options)
        settings = ImageSettings(bands=bands, channels=channels, **options)
        with open_windows(tmp_path / "a.png", settings, whole_pixels=0) as source:
            assert source.size == (HEIGHT, WIDTH)
            assert torch.equal(source.read(WINDOW), whole[:, 2:20, 3:30])


# ---- larger than the memory


def test_a_window_of_a_file_with_900_million_pixels(tmp_path):
    side = 30_000
    start = tiff_of(np.zeros((1, 1, 1), np.uint8), tags=[(256, 4, [side]), (257, 4, [side]), (278, 4, [side])])
    with open(tmp_path / "huge.tif", "wb") as file:
        file.write(start[:-1])
        file.seek(side * side - 1, 1)  # a sparse file: zeros that need no space on disk
        file.write(b"\7")
    with open_windows(tmp_path / "huge.tif", SETTINGS) as source:
        assert source.size == (side, side)
        found = source.read(Window(side - 3, side - 2, side, side))
    assert found.tolist() == [[[0, 0, 0], [0, 0, 7]]] * 3


def huge(*, tags=(), tile=(16, 16), side=30_000):
    """A TIFF whose header promises 30,000 x 30,000 pixels, with a single tile."""
    given = [(256, 4, [side]), (257, 4, [side]), *tags]
    return tiff_of(np.zeros((16, 16, 3), np.uint8), tile=tile, deflate=True, photometric=2, tags=given)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (huge(), "it is truncated, or its tags lack positions"),
        (huge(side=200_000), "has 40000000000 pixels, .* at most 10000000000; divide the image"),
        (huge(tile=(30_000, 30_000)), "tiles are 30000 x 30000 pixels"),
        (huge(tags=[(323, 4, [30_000])]), "it is truncated"),
        (huge()[:100], "not supported|damaged"),
    ],
    ids=["lacks tiles", "too large", "one tile", "columns of tiles", "truncated"],
)
def test_headers_that_promise_more_than_the_file_has(data, words):
    tracemalloc.start()
    with pytest.raises(InputError, match=words):
        with open_windows(data, SETTINGS) as source:
            source.read(Window(0, 0, 64, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("position", [2**31, 2**32 - 1, 100_000])
def test_positions_outside_the_file(position):
    tiles = 32 * 32
    tags = [(256, 4, [512]), (257, 4, [512]), (324, 4, [position] * tiles), (325, 4, [2**32 - 1] * tiles)]
    data = tiff_of(np.zeros((16, 16, 3), np.uint8), tile=(16, 16), deflate=True, photometric=2, tags=tags)
    with open_windows(data, SETTINGS, whole_pixels=0) as source, pytest.raises(InputError, match="damaged or trunc"):
        source.read(Window(0, 0, 10, 10))


def test_negative_sizes_do_not_read_the_whole_file():
    data = tiff_of(np.zeros((16, 16, 3), np.uint8), tile=(16, 16), deflate=True, photometric=2)
    at = data.index(struct.pack("<HHI", 325, 4, 1))  # the size of the only tile, as signed numbers are stored
    data = data[:at] + struct.pack("<HHIi", 325, 9, 1, -1) + data[at + 12 :]
    with pytest.raises(InputError, match="strips or tiles with a negative position or size"):
        with open_windows(data, SETTINGS):
            pass


TILED = [
    tiff_of(NOISE, tile=(16, 16), deflate=True, photometric=2),
    tiff_of(NOISE, rows=5, photometric=2, order=">"),
    tiff_of(WIDE.astype(np.uint16), tile=(16, 16), planar=True, deflate=True, predictor=2),
]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TILED), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
def test_damaged_files_are_an_image_or_an_error(data, changes):
    damaged = bytearray(data)
    for where, value in changes:  # mostly among the tags, the first 200 bytes
        damaged[int(where * 200 if value % 4 else where * len(data))] = value
    try:
        with open_windows(bytes(damaged), ImageSettings(max_pixels=10_000), whole_pixels=0) as source:
            height, width = source.size
            y, x = min(height, 20), min(width, 20)
            assert source.read(Window(0, 0, x, y)).shape == (3, y, x)
    except InputError:
        pass
