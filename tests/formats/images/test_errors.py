"""Files that are not images, are damaged, or are too large."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from retinanet.errors import InputError
from retinanet.formats.images.opened import ImageHeader
from retinanet.formats.images.reader import read_header, read_image
from tests.helpers.image_files import (
    HEIGHT,
    IMAGE,
    MAX_PIXELS,
    NOISE,
    SECOND_FRAME,
    WIDTH,
    exif,
    png,
    read,
)


def test_header_is_read_without_pixels(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(png([])[:50])
    assert read_header(path, max_pixels=MAX_PIXELS) == ImageHeader(HEIGHT, WIDTH, 1, "PNG", 3, "uint8")


def test_max_pixels_is_inclusive(tmp_path):
    IMAGE.copy().save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", max_pixels=HEIGHT * WIDTH).shape == (3, HEIGHT, WIDTH)
    for reader in (read_header, read_image):
        with pytest.raises(InputError, match=r"has 714 pixels \(34 x 21\), expected at most 713;.*data\.max_pixels"):
            reader(tmp_path / "image.png", max_pixels=HEIGHT * WIDTH - 1)


def test_max_pixels_replaces_the_limit_of_pillow(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png([], size=(20_000, 20_000)))
    with pytest.raises(Image.DecompressionBombError, match="178956970"), Image.open(path):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(path, max_pixels=4 * 10**8).width == 20_000
        for limit in (4 * 10**8 - 1, 10**7):
            with pytest.raises(
                InputError, match=rf"has 400000000 pixels.*, expected at most {limit};.*data\.max_pixels"
            ):
                read_header(path, max_pixels=limit)


@pytest.mark.parametrize("file_format", ["JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_pillow_limit_is_ignored_and_restored(tmp_path, monkeypatch, file_format, decoder):
    path = tmp_path / "image"
    several = (
        {"save_all": True, "append_images": [SECOND_FRAME.copy()]} if file_format not in ("JPEG", "PNG", "BMP") else {}
    )
    IMAGE.copy().save(path, file_format, **several)
    expected = read(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(read(path), expected)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(
        InputError, match=r"714 pixels \(34 x 21\), expected at most 713; shrink the image or raise data\.max_pixels"
    ):
        read_image(path, max_pixels=HEIGHT * WIDTH - 1)
    with pytest.raises(InputError) as error:
        read_image(path, max_pixels=100)  # Pillow itself raises above twice the limit
    assert ("set inference.tile.size" in str(error.value)) == (file_format == "TIFF")
    assert Image.MAX_IMAGE_PIXELS == 100


def test_threads_with_different_limits_do_not_interfere(tmp_path, decoder):
    path = tmp_path / "image.gif"
    IMAGE.copy().save(path)
    limit = Image.MAX_IMAGE_PIXELS

    def outcome(max_pixels):
        try:
            return read_image(path, max_pixels=max_pixels).shape[-1]
        except InputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, [HEIGHT * WIDTH, 100] * 100))
    assert outcomes == [WIDTH, None] * 100
    assert Image.MAX_IMAGE_PIXELS == limit


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_pillow_decodes_what_torchcodec_does_not_support(tmp_path, monkeypatch, file_format):
    # torchcodec supports all files of these tests, so it is replaced by a function that fails.
    def fail(source, mode):
        raise RuntimeError("decode_rows, /a/File.cpp:7, arithmetic coding is not supported")

    path = tmp_path / "image"
    IMAGE.copy().save(path, file_format, exif=exif(6))
    complete = read(path)
    assert complete.shape == (WIDTH, HEIGHT, 3)
    monkeypatch.setattr("retinanet.formats.images.decode.decode_image", fail)
    assert np.array_equal(read(path), complete)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"\(arithmetic coding is not supported\)|header is damaged"):
        read(path)


def test_torchcodec_does_not_decode_animated_webp(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("retinanet.formats.images.decode.decode_image", lambda source, mode: calls.append(mode))
    for options in ({"save_all": True, "append_images": [SECOND_FRAME]}, {}):
        IMAGE.copy().save(tmp_path / "image", "WEBP", **options)
        read(tmp_path / "image")
        assert calls == ([] if options else ["RGB"])


def test_jpeg_padded_with_zeros_is_an_error(tmp_path, decoder):
    path = tmp_path / "image.jpg"
    IMAGE.copy().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] + bytes(1000))
    with Image.open(path) as image:
        image.load()  # Pillow accepts it
    with pytest.raises(InputError, match=r"image\.jpg: damaged or truncated JPEG"):
        read(path)


def test_pillow_set_to_accept_truncated_images_is_detected(tmp_path, monkeypatch):
    IMAGE.copy().save(tmp_path / "image.bmp")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(AssertionError, match="truncated"):
        read(tmp_path / "image.bmp")


def test_png_with_missing_rows_is_an_error_although_pillow_accepts_it(tmp_path, decoder):
    path = tmp_path / "few_rows.png"
    path.write_bytes(png([row.tobytes() for row in NOISE[:9]]))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image)[:9], NOISE[:9])
    with pytest.raises(InputError, match=r"(?i)not enough image data"):
        read(path)


def test_message_has_no_source_path_of_the_decoder(tmp_path, decoder):
    IMAGE.copy().save(tmp_path / "image.jpg")
    data = (tmp_path / "image.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:-30])
    with pytest.raises(InputError) as caught:
        read(tmp_path / "cut.jpg")
    assert ".cpp" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that opens and cannot be read")
def test_file_that_opens_but_cannot_be_read():
    with pytest.raises(InputError, match=r"^/proc/self/mem: Input/output error, expected a readable image"):
        read("/proc/self/mem")
