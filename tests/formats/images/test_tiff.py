"""TIFF files with any number of bands and any sample type, written by `tests/helpers/tiff_files.py` and by Pillow."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from retinanet.errors import InputError
from retinanet.formats.images.opened import ImageHeader, open_image
from retinanet.formats.images.reader import read_header
from retinanet.formats.images.tiff import read_samples, read_tiff
from tests.helpers.image_files import (
    HEIGHT,
    IMAGE,
    MAX_PIXELS,
    NOISE,
    SECOND_FRAME,
    WIDE,
    WIDTH,
    exif,
    read,
    tiff,
    with_alpha,
)
from tests.helpers.tiff_files import tiff_of

ROUNDED = np.floor(WIDE / 257 + 0.5).astype(np.uint8)  # 0..65535 to 0..255
EIGHT = np.concatenate([NOISE, 255 - NOISE, NOISE[::-1, :, :2]], axis=2)  # 8 bands
SHORT, ASCII = 3, 2


def samples_of(data, bands):
    file = io.BytesIO(data)
    return read_samples(file, read_tiff(file), bands)


def array_of(dtype, bands=8):
    raw = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, bands * np.dtype(dtype).itemsize), dtype=np.uint8)
    return raw.view(dtype)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("blocks", [{}, {"rows": 4}, {"tile": (16, 32)}], ids=["one strip", "strips", "tiles"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "f8"])
def test_every_layout_and_sample_type(order, planar, blocks, dtype):
    values = array_of(dtype)
    for compression in ({}, {"deflate": True}, {"deflate": True, "predictor": 2}):
        if dtype[0] == "f" and "predictor" in compression:
            compression["predictor"] = 3
        found = samples_of(tiff_of(values, order=order, planar=planar, **blocks, **compression), [7, 1, 3])
        assert found.values.dtype == np.dtype(dtype), compression
        assert found.values.tobytes() == values[..., [6, 0, 2]].tobytes(), compression


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "raw"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_files_written_by_libtiff(tmp_path, compression, predictor):
    if compression in ("packbits", "raw") and predictor == 2:
        predictor = 1
    file = io.BytesIO()
    IMAGE.copy().save(file, "TIFF", compression=compression, tiffinfo={317: predictor})
    assert np.array_equal(samples_of(file.getvalue(), [3, 2, 1]).values, NOISE[..., ::-1])


@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_floating_point_written_by_libtiff(tmp_path, predictor):
    values = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", compression="tiff_lzw", tiffinfo={317: predictor})
    assert np.array_equal(samples_of(file.getvalue(), [1]).values[..., 0], values)


def test_bigtiff(tmp_path):
    with_alpha(IMAGE).save(tmp_path / "image", "TIFF", big_tiff=True)
    assert (tmp_path / "image").read_bytes()[:4] == b"II+\0"
    assert np.array_equal(read(tmp_path / "image", bands=(3, 2, 1)), NOISE[..., ::-1])


# ---- bands


def test_more_than_four_bands_require_a_selection(tmp_path):
    path = tmp_path / "image.tif"
    for bands in (5, 6, 8):
        path.write_bytes(tiff_of(EIGHT[..., :bands]))
        assert read_header(path, max_pixels=MAX_PIXELS) == ImageHeader(HEIGHT, WIDTH, 1, "TIFF", bands, "uint8")
        words = rf"image\.tif: has {bands} bands, expected 1, 3 or 4; select three with data\.bands, or set "
        with pytest.raises(InputError, match=words):
            read(path)
    assert np.array_equal(read(path, bands=(8, 2, 5)), EIGHT[..., [7, 1, 4]])
    assert np.array_equal(read(path, bands=(8,)), EIGHT[..., [7, 7, 7]])
    with pytest.raises(InputError, match=r"image\.tif: has 8 band\(s\) besides alpha, but data\.bands selects band 9"):
        read(path, bands=(1, 2, 9))


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_up_to_four_bands_are_grey_or_colour_and_the_rest_is_ignored(tmp_path, bands, dtype):
    values = (EIGHT if dtype == "u1" else WIDE.astype(np.uint16))[..., :bands]
    (tmp_path / "image").write_bytes(tiff_of(values))
    shown = EIGHT if dtype == "u1" else ROUNDED
    assert np.array_equal(read(tmp_path / "image"), shown[..., [0, 1, 2] if bands >= 3 else [0, 0, 0]])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_bands_of_a_colour_image_can_be_reordered(tmp_path, file_format):
    IMAGE.copy().save(tmp_path / "image", file_format, exif=exif(6))
    expected = read(tmp_path / "image")
    assert np.array_equal(read(tmp_path / "image", bands=(3, 2, 1)), expected[..., ::-1])
    assert np.array_equal(read(tmp_path / "image", bands=(2,)), expected[..., [1, 1, 1]])
    stored = read(tmp_path / "image", apply_orientation=False)
    assert np.array_equal(read(tmp_path / "image", apply_orientation=False, bands=(3, 2, 1)), stored[..., ::-1])


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_images_have_one_band(tmp_path, mode):
    IMAGE.convert(mode).save(tmp_path / "image", "PNG")
    assert np.array_equal(read(tmp_path / "image", bands=(1,)), read(tmp_path / "image"))
    with pytest.raises(InputError, match=r"has 1 band\(s\) besides alpha, but data\.bands selects band 3"):
        read(tmp_path / "image", bands=(3, 2, 1))


# ---- values


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_is_scaled(tmp_path, dtype):
    (tmp_path / "image").write_bytes(tiff(WIDE[..., 0], dtype=dtype))
    assert read_header(tmp_path / "image", max_pixels=MAX_PIXELS).dtype == "uint16"
    assert np.array_equal(read(tmp_path / "image"), ROUNDED[..., [0, 0, 0]])


@pytest.mark.parametrize("bands", [1, 3])
def test_16_bit_is_rotated(tmp_path, bands):
    values = WIDE[..., :bands].astype(np.uint16)
    (tmp_path / "image").write_bytes(tiff_of(values, tags=[(0x0112, SHORT, [6])]))
    header = read_header(tmp_path / "image", max_pixels=MAX_PIXELS)
    assert (header.height, header.width, header.orientation) == (WIDTH, HEIGHT, 6)
    expected = ROUNDED[..., [0, 0, 0] if bands == 1 else [0, 1, 2]]
    assert np.array_equal(read(tmp_path / "image"), np.rot90(expected, -1))
    assert np.array_equal(read(tmp_path / "image", apply_orientation=False), expected)


def test_12_bits_in_16_are_not_black(tmp_path):
    (tmp_path / "image").write_bytes(tiff_of((WIDE[..., :3] % 4096).astype(np.uint16)))
    assert np.array_equal(read(tmp_path / "image"), np.floor((WIDE[..., :3] % 4096) * 255 / 4095 + 0.5))


def test_zero_is_white(tmp_path):
    samples = np.array([[0, 257, 65535 - 257, 65535]])
    (tmp_path / "image").write_bytes(tiff(samples, dtype="<u2", photometric=0))
    assert read(tmp_path / "image")[..., 0].tolist() == [[255, 254, 1, 0]]


def test_packed_12_bits(tmp_path):
    # 0, 4095, 2048, 291 of 4095, three nibbles each: 2048 / 4095 * 255 = 127.5, 291 / 4095 * 255 = 18.1
    (tmp_path / "image").write_bytes(tiff(bytes.fromhex("000fff800123"), dtype="<u2", bits=12))
    assert read(tmp_path / "image")[..., 0].tolist() == [[0, 255, 128, 18]]
    # Small values do not change the range, because the depth is declared; rows are filled up to whole bytes.
    data = tiff(np.zeros((2, 3)), dtype="<u2", bits=12)[:-12] + bytes.fromhex("000001002f" + "fff0000000")
    (tmp_path / "image").write_bytes(data)
    with open_image(tmp_path / "image", max_pixels=MAX_PIXELS) as opened:
        assert opened.samples().values[..., 0].tolist() == [[0, 1, 2], [4095, 0, 0]]
    assert read(tmp_path / "image")[..., 0].tolist() == [[0, 0, 0], [255, 0, 0]]


def test_value_without_data_is_black(tmp_path):
    values = np.array([[-3.4e38, 10, 255]], dtype=np.float32)[..., None]
    (tmp_path / "image").write_bytes(tiff_of(values, tags=[(42113, ASCII, b"-3.4e+38\0")]))
    with open_image(tmp_path / "image", max_pixels=MAX_PIXELS) as opened:
        assert opened.samples().nodata == -3.4e38
    # The float32 in the file is the nearest to the number in the tag.
    assert read(tmp_path / "image")[..., 0].tolist() == [[0, 10, 255]]


# ---- files that cannot be used


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"tags": [(259, SHORT, [7])]},
            r"8 band\(s\) of 8-bit samples, photometric 1, compression 7, which is not",
        ),
        ({"tags": [(339, SHORT, [1, 1, 1, 1, 1, 1, 1, 3])]}, "which is not supported"),
        ({"tags": [(257, SHORT, [0])]}, "its tags give a size of 34 x 0 pixels"),
        ({"tags": [(278, SHORT, [0])]}, "its tags give strips or tiles of 34 x 0 pixels"),
        ({"tags": [(257, SHORT, [HEIGHT + 1])], "rows": 7}, "it has 3 strips or tiles of 4"),
        ({"tags": [(277, SHORT, [60000])]}, r"60000 band\(s\) of uint8 samples.* need \d+ bytes, expected at most 8"),
        ({"tags": [(317, SHORT, [9])]}, "unknown predictor 9"),
        ({"tile": (16, 16), "tags": [(323, SHORT, [60000])]}, r"need \d+ bytes.*set data\.max_pixels to at least"),
    ],
)
def test_unsupported_and_invalid_tags(tmp_path, options, words):
    (tmp_path / "image.tif").write_bytes(tiff_of(EIGHT, **options))
    with pytest.raises(InputError, match=words):
        read(tmp_path / "image.tif", bands=(1,))


def test_tiles_that_decode_to_much_more_than_the_image(tmp_path):
    # 20 tiles of 1 MiB for one row of 20 x 16 pixels: 20 MiB of zeros in 20 KB.
    path = tmp_path / "image.tif"
    data = tiff_of(np.zeros((1, 320, 1), np.uint16), tile=(32768, 16), deflate=True)
    path.write_bytes(data)
    assert len(data) < 40_000
    with pytest.raises(InputError, match="its strips or tiles are much larger than the image"):
        with open_image(path, max_pixels=10**6) as opened:
            opened.decode()


def test_truncated_samples_are_an_error(tmp_path):
    for options in ({}, {"rows": 4}, {"deflate": True}, {"planar": True}, {"tile": (16, 16)}):
        data = tiff_of(EIGHT, **options)
        (tmp_path / "image.tif").write_bytes(data[:-1500])  # more than the unused rows of the last tile
        with pytest.raises(InputError, match=r"image\.tif: damaged or truncated TIFF"):
            read(tmp_path / "image.tif", bands=(8, 7, 6))


# ---- pages


def page(tags, following):
    """A page without pixels: only its tag directory, with the offset of the next page."""
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in sorted(tags.items()))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


@pytest.mark.parametrize(("kinds", "expected"), [([], False), ([0], True), ([1], False), ([4], False), ([1, 0], True)])
def test_additional_pages_that_are_not_overviews_or_masks(tmp_path, kinds, expected):
    data = bytearray(tiff(WIDE[..., 0], dtype="<u2"))
    link = 8 + 2 + 12 * struct.unpack_from("<H", data, 8)[0]
    for kind in kinds:
        struct.pack_into("<I", data, link, len(data))
        data += page({254: kind, 256: 1, 257: 1}, 0)
        link = len(data) - 4
    (tmp_path / "image").write_bytes(data)
    with open_image(tmp_path / "image", max_pixels=MAX_PIXELS) as opened:
        assert opened.has_more_frames() == expected
    assert np.array_equal(read(tmp_path / "image"), ROUNDED[..., [0, 0, 0]])


def test_cyclic_pages_do_not_loop_forever(tmp_path):
    data = bytearray(tiff(WIDE[..., 0], dtype="<u2"))
    struct.pack_into("<I", data, 8 + 2 + 12 * struct.unpack_from("<H", data, 8)[0], len(data))
    (tmp_path / "image").write_bytes(data + page({254: 1}, len(data)))  # the second page is its own successor
    with open_image(tmp_path / "image", max_pixels=MAX_PIXELS) as opened:
        assert not opened.has_more_frames()


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_additional_frames_of_every_format(tmp_path, file_format):
    several = {"save_all": True, "append_images": [SECOND_FRAME.copy()]}
    for options in ({}, several):
        IMAGE.copy().save(tmp_path / "image", file_format, **options)
        with open_image(tmp_path / "image", max_pixels=MAX_PIXELS) as opened:
            # The other images of an MPO are a phone's previews and depth maps.
            assert opened.has_more_frames() == (bool(options) and file_format != "MPO")
            assert opened.decode().shape == (3, HEIGHT, WIDTH)
