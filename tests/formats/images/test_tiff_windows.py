"""Windows of TIFF files equal the same part of the whole decoded image, and only the tiles they touch are decoded."""

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retinanet.errors import InputError
from retinanet.formats.images import tiff_excerpt
from retinanet.formats.images.opened import open_image
from retinanet.formats.images.reader import read_image
from retinanet.formats.images.tiff_excerpt import TiffExcerpts
from retinanet.formats.images.tiff_windows import TiffWindows
from retinanet.formats.images.windows import Window
from tests.helpers.tiff_files import by_libtiff, tiff_of

SIDE = 32  # instead of 256, so that small images consist of several rectangles
HEIGHT, WIDTH = 45, 83
RNG = np.random.default_rng(0)
SMOOTH = (np.cumsum(RNG.integers(-9, 10, (HEIGHT, WIDTH, 16)), axis=1) % 256).astype(np.uint8)
RGB = np.ascontiguousarray(SMOOTH[..., :3])
MAX_PIXELS = 100_000
CORNERS = (Window(0, 0, WIDTH, HEIGHT), Window(30, 30, 66, 34), Window(82, 44, 83, 45), Window(3, 5, 60, 7))


@pytest.fixture(autouse=True, scope="module")
def small_rectangles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_excerpt, "SIDE", SIDE)
        yield


def opened_windows(data, *, bands=None, channels=3, value_range="auto", **options):
    """Open a file for reading windows, in a `with` block."""
    return _Windows(open_image(data, max_pixels=MAX_PIXELS), bands, channels, value_range, options)


class _Windows:
    def __init__(self, file, bands, channels, value_range, options):
        self.file, self.options = file, {"bands": bands, "channels": channels, "value_range": value_range} | options

    def __enter__(self):
        return TiffWindows(self.file.__enter__(), **self.options)

    def __exit__(self, *error):
        return self.file.__exit__(*error)


def check_windows(data, windows, **kwargs):
    whole = read_image(data, max_pixels=MAX_PIXELS, **kwargs)
    with opened_windows(data, **kwargs) as source:
        assert source.size == tuple(whole.shape[1:])
        for x1, y1, x2, y2 in windows:
            found = source.read(Window(x1, y1, x2, y2))
            assert torch.equal(found, whole[:, y1:y2, x1:x2]), (x1, y1, x2, y2)


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [("jpeg", 1), ("tiff_lzw", 1), ("tiff_lzw", 2), ("packbits", 1), ("zstd", 2), ("tiff_adobe_deflate", 2)],
)
@pytest.mark.parametrize("blocks", [{"tile": (48, 32)}, {"tile": (16, 16)}, {"tile": (96, 96)}, {"rows": 16}])
def test_every_compression(compression, predictor, blocks):
    compress, tags = by_libtiff(compression, predictor)
    check_windows(tiff_of(RGB, photometric=2, compress=compress, tags=tags, **blocks), CORNERS)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LAB", "LA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
def test_every_kind_of_pixel_written_by_libtiff(mode, compression):
    file = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(file, "TIFF", compression=compression, tiffinfo={278: 7})
    check_windows(file.getvalue(), CORNERS)


def test_bigtiff():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "TIFF", big_tiff=True, tiffinfo={278: 3})
    assert file.getvalue()[:4] == b"II+\0"
    check_windows(file.getvalue(), CORNERS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_of_a_rotated_image_are_as_displayed(orientation):
    data = tiff_of(RGB, photometric=2, tile=(16, 16), tags=[(274, 3, [orientation])])
    check_windows(data, [Window(0, 0, HEIGHT, HEIGHT), Window(3, 20, 40, 23), Window(31, 0, HEIGHT, HEIGHT)])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_layout_and_window(data):
    bands = data.draw(st.integers(1, 16), label="bands")
    dtype = data.draw(st.sampled_from(["u1", "i1", "u2", "i2", "u4", "f4"]), label="dtype")
    blocks = data.draw(
        st.one_of(
            st.builds(lambda rows: {"rows": rows}, st.integers(1, HEIGHT + 5)),
            st.builds(lambda h, w: {"tile": (16 * h, 16 * w)}, st.integers(1, 4), st.integers(1, 4)),
        ),
        label="blocks",
    )
    deflate = data.draw(st.booleans(), label="deflate")
    predictor = data.draw(st.sampled_from([1, 3 if dtype == "f4" else 2]), label="predictor") if deflate else 1
    values = (SMOOTH[..., :bands].astype(np.int64) * data.draw(st.integers(1, 200), label="factor")).astype(dtype)
    tags = [(274, 3, [data.draw(st.integers(1, 8), label="orientation")])]
    order, planar = data.draw(st.sampled_from("<>"), label="order"), data.draw(st.booleans(), label="planar")
    file = tiff_of(values, order=order, planar=planar, deflate=deflate, predictor=predictor, tags=tags, **blocks)
    side = st.integers(0, min(HEIGHT, WIDTH))
    (x1, x2), (y1, y2) = (sorted(data.draw(st.tuples(side, side), label="window")) for _ in range(2))
    chosen = tuple(data.draw(st.permutations(range(1, bands + 1)), label="chosen")[: data.draw(st.integers(1, bands))])
    check_windows(file, [Window(x1, y1, x2, y2)], bands=chosen, channels=len(chosen))


def test_range_of_values_is_that_of_the_whole_image():
    values = np.full((HEIGHT, WIDTH, 5), 200, np.uint16)
    values[-1, -1, 2] = 3000  # of this band only: five bands have separate ranges
    data = tiff_of(values, tile=(16, 16), deflate=True)
    with opened_windows(data, bands=(1, 3), channels=2) as source:  # two bands share one
        assert source.read(Window(0, 0, 1, 1)).ravel().tolist() == [12, 12]  # 200 / 4095 * 255 = 12.45
    with opened_windows(data, bands=(1, 2, 3, 4, 5), channels=5) as source:
        assert source.read(Window(0, 0, 1, 1)).ravel().tolist() == [200, 200, 12, 200, 200]
    with opened_windows(data, bands=(1, 3), channels=2, value_range=(0, 400)) as source:
        assert source.read(Window(0, 0, 1, 1)).ravel().tolist() == [128, 128]  # 127.5 is rounded up


# ---- what is decoded


@pytest.fixture
def cuts(monkeypatch):
    """The rectangles that were cut out of a file and decoded, as (row, column)."""
    found, cut = [], TiffExcerpts.cut

    def record(self, row, column):
        found.append((row, column))
        return cut(self, row, column)

    monkeypatch.setattr(TiffExcerpts, "cut", record)
    return found


def test_only_the_tiles_of_a_window_are_decoded(cuts):
    with opened_windows(tiff_of(RGB, photometric=2, tile=(16, 16), deflate=True)) as source:
        source.read(Window(33, 10, 50, 32))
    assert cuts == [(0, 1)]  # 2 x 2 tiles of 16 x 16 at a time


def test_overlapping_windows_decode_each_tile_once(cuts):
    with opened_windows(tiff_of(RGB, photometric=2, tile=(16, 16), deflate=True)) as source:
        for top, left in itertools.product(range(0, HEIGHT - 20 + 1, 5), range(0, WIDTH - 20 + 1, 7)):
            source.read(Window(left, top, left + 20, top + 20))
    assert len(cuts) == len(set(cuts)) == 2 * 3


def test_the_cache_is_bounded(cuts):
    with opened_windows(tiff_of(RGB, photometric=2, tile=(16, 16), deflate=True), cache_bytes=3 * SIDE**2) as source:
        for _ in range(2):
            source.read(Window(0, 0, SIDE, SIDE))  # fills the cache
        assert cuts == [(0, 0)]
        source.read(Window(SIDE, 0, 40, 10))
        source.read(Window(0, 0, 1, 1))
        assert cuts == [(0, 0), (0, 1), (0, 0)]


def test_damage_is_an_error_only_where_it_is_read():
    data = bytearray(tiff_of(RGB, photometric=2, tile=(32, 32), deflate=True))
    data[-500:] = bytes(500)  # in the last tile, in the bottom right corner
    with opened_windows(bytes(data)) as source:
        assert torch.equal(source.read(Window(0, 0, WIDTH, 32)), torch.tensor(RGB[:32]).permute(2, 0, 1))
        with pytest.raises(InputError, match=r"bytes: damaged or truncated TIFF"):
            source.read(Window(64, 32, 65, 33))


def test_errors_name_the_file(tmp_path):
    (tmp_path / "map.tif").write_bytes(tiff_of(RGB, photometric=2, tile=(16, 16))[:-5000])
    with opened_windows(tmp_path / "map.tif") as source, pytest.raises(InputError, match=r"map\.tif: damaged"):
        source.read(Window(70, 40, 80, 45))
    with pytest.raises(InputError, match=r"map\.tif: has 3 band\(s\)"):
        with opened_windows(tmp_path / "map.tif", channels=5):
            pass
