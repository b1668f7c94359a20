import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from retinanet.formats.images.opened import ImageHeader
from retinanet.formats.images.reader import read_header
from tests.helpers.image_files import (
    HEIGHT,
    IMAGE,
    MAX_PIXELS,
    NOISE,
    ODD_EXIF,
    SECOND_FRAME,
    WIDTH,
    chunk,
    exif,
    png,
    read,
    with_alpha,
)

pytestmark = pytest.mark.usefixtures("decoder")

# EXIF 2.32, table "Orientation", in NumPy: stored (H, W, 3) to displayed.
SHOWN = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


PILLOW_FILES = {
    "jpeg": (IMAGE, "JPEG", {}),
    "jpeg 4:4:4": (IMAGE, "JPEG", {"subsampling": 0}),
    "jpeg progressive": (IMAGE, "JPEG", {"progressive": True}),
    "jpeg without YCbCr": (IMAGE, "JPEG", {"keep_rgb": True}),
    "jpeg grey": (IMAGE.convert("L"), "JPEG", {}),
    "jpeg CMYK": (IMAGE.convert("CMYK"), "JPEG", {}),
    "mpo": (IMAGE, "MPO", {"save_all": True, "append_images": [SECOND_FRAME.copy()]}),
    "png": (IMAGE, "PNG", {}),
    "png L": (IMAGE.convert("L"), "PNG", {}),
    "png LA": (with_alpha(IMAGE.convert("L")), "PNG", {}),
    "png RGBA": (with_alpha(IMAGE), "PNG", {}),
    "png RGB tRNS": (IMAGE, "PNG", {"transparency": tuple(NOISE[0, 0].tolist())}),
    "png L tRNS": (IMAGE.convert("L"), "PNG", {"transparency": 90}),
    "png palette": (IMAGE.quantize(100), "PNG", {}),
    "png palette tRNS": (IMAGE.quantize(100), "PNG", {"transparency": 3}),
    "png palette 4 bits": (IMAGE.quantize(16), "PNG", {"bits": 4}),
    "png 1 bit": (IMAGE.convert("1"), "PNG", {}),
    "png animated": (IMAGE, "PNG", {"save_all": True, "append_images": [SECOND_FRAME]}),
    "webp": (IMAGE, "WEBP", {}),
    "webp lossless": (IMAGE, "WEBP", {"lossless": True}),
    "webp RGBA": (with_alpha(IMAGE), "WEBP", {}),
    "webp animated": (IMAGE, "WEBP", {"save_all": True, "append_images": [SECOND_FRAME], "lossless": True}),
    "gif": (IMAGE, "GIF", {}),
    "gif animated": (IMAGE, "GIF", {"save_all": True, "append_images": [SECOND_FRAME]}),
    "gif transparent": (IMAGE.quantize(100), "GIF", {"transparency": 3}),
    "bmp": (IMAGE, "BMP", {}),
    "bmp palette": (IMAGE.quantize(100), "BMP", {}),
    "bmp 1 bit": (IMAGE.convert("1"), "BMP", {}),
    "tiff": (IMAGE, "TIFF", {}),
    "tiff lzw": (IMAGE, "TIFF", {"compression": "tiff_lzw"}),
    "tiff RGBA": (with_alpha(IMAGE), "TIFF", {}),
    "tiff CMYK": (IMAGE.convert("CMYK"), "TIFF", {}),
    "tiff palette": (IMAGE.quantize(100), "TIFF", {}),
    "tiff 1 bit": (IMAGE.convert("1"), "TIFF", {}),
}
if features.check("avif"):
    PILLOW_FILES["avif"] = (IMAGE, "AVIF", {})
    PILLOW_FILES["avif animated"] = (IMAGE, "AVIF", {"save_all": True, "append_images": [SECOND_FRAME]})


@pytest.mark.parametrize("name", PILLOW_FILES)
def test_decoding_equals_pillow(tmp_path, name):
    original, file_format, options = PILLOW_FILES[name]
    path = tmp_path / "image"  # without a suffix: the content determines the format
    original.copy().save(path, file_format, **options)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
        bands, alpha = 1 if image.mode in ("1", "L", "LA") else 3, ()
        if file_format == "TIFF" and image.mode == "RGBA":
            bands, alpha = 4, (4,)
    assert np.ptp(expected) > 200
    assert np.array_equal(read(path), expected)
    assert read_header(path, max_pixels=MAX_PIXELS) == ImageHeader(HEIGHT, WIDTH, 1, file_format, bands, "uint8", alpha)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})]
    + [(f, {"save_all": True, "append_images": [SECOND_FRAME]}) for f in ("PNG", "TIFF")]
    + [("WEBP", {"save_all": True, "append_images": [SECOND_FRAME], "lossless": True})],
)
def test_lossless_first_frame_is_restored(tmp_path, file_format, options):
    IMAGE.copy().save(tmp_path / "image", file_format, **options)
    assert np.array_equal(read(tmp_path / "image"), NOISE)


def test_png_without_its_end_chunk_is_read(tmp_path):
    (tmp_path / "image.png").write_bytes(png([row.tobytes() for row in NOISE])[:-12])
    assert np.array_equal(read(tmp_path / "image.png"), NOISE)


def test_alpha_is_ignored_not_blended(tmp_path):
    for file_format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        with_alpha(IMAGE).save(tmp_path / "image", file_format, **options)
        assert np.array_equal(read(tmp_path / "image"), NOISE), file_format


def test_gif_frame_smaller_than_its_canvas(tmp_path):
    IMAGE.copy().save(tmp_path / "small.gif")
    data = bytearray((tmp_path / "small.gif").read_bytes())
    frame = data.index(b"\x2c\0\0\0\0")
    data[6:10] = struct.pack("<HH", WIDTH + 10, HEIGHT + 10)
    data[frame + 1 : frame + 5] = struct.pack("<HH", 4, 7)
    (tmp_path / "frame.gif").write_bytes(data)
    pixels = read(tmp_path / "frame.gif")
    assert pixels.shape == (HEIGHT + 10, WIDTH + 10, 3)
    assert np.array_equal(pixels[7 : 7 + HEIGHT, 4 : 4 + WIDTH], read(tmp_path / "small.gif"))


@pytest.mark.parametrize("adobe_transform", [None, 0, 2])
def test_cmyk_jpeg_equals_pillow_for_every_adobe_marker(tmp_path, adobe_transform):
    path = tmp_path / "image.jpg"
    IMAGE.convert("CMYK").save(path)
    data = path.read_bytes()
    at = data.index(b"Adobe")
    marker = b"" if adobe_transform is None else data[at - 4 : at + 11] + bytes([adobe_transform])
    path.write_bytes(data[: at - 4] + marker + data[at + 12 :])
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        assert np.array_equal(read(path), np.asarray(image.convert("RGB")))


# ---- orientation

ORIENTED = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "WEBP animated": {"lossless": True, "save_all": True, "append_images": [SECOND_FRAME]},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    **({"AVIF": {}} if features.check("avif") else {}),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ORIENTED)
def test_orientation_is_applied_or_kept(tmp_path, name, orientation):
    path, plain = tmp_path / "rotated", tmp_path / "plain"
    IMAGE.copy().save(path, name.split()[0], exif=exif(orientation), **ORIENTED[name])
    IMAGE.copy().save(plain, name.split()[0], **ORIENTED[name])
    stored = read(plain)
    assert np.array_equal(stored, NOISE) or name in ("JPEG", "AVIF")

    shown = read(path)
    assert np.array_equal(shown, SHOWN[orientation](stored))
    with Image.open(path) as image:
        assert np.array_equal(shown, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    assert np.array_equal(read(path, apply_orientation=False), stored)

    header = read_header(path, max_pixels=MAX_PIXELS)
    assert (header.height, header.width, header.orientation) == (*shown.shape[:2], orientation)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("name", ODD_EXIF)
def test_odd_exif_is_applied_as_by_torchcodec(tmp_path, file_format, name, decoder):
    block, orientation = ODD_EXIF[name]
    path = tmp_path / "image"
    IMAGE.copy().save(path, file_format)
    data = path.read_bytes()
    stored = read(path)
    if file_format == "JPEG":
        segment = b"Exif\0\0" + block
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    else:
        data = data[:33] + chunk(b"eXIf", block) + data[33:]
    path.write_bytes(data)
    header = read_header(path, max_pixels=MAX_PIXELS)
    assert header.orientation == orientation
    if decoder == "torchcodec":
        from torchcodec.decoders import decode_image

        assert decode_image(path).shape == (3, header.height, header.width)
    assert np.array_equal(read(path), SHOWN[orientation](stored))
    assert np.array_equal(read(path, apply_orientation=False), stored)
