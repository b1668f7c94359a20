import importlib.util
import struct
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from retinanet.errors import InputError
from retinanet.formats import image as image_module
from retinanet.formats.image import ImageHeader, read_header
from tests.helpers.image_files import (
    HEIGHT,
    IMAGE,
    MAX_PIXELS,
    NOISE,
    ODD_EXIF,
    SECOND_FRAME,
    WIDE,
    WIDTH,
    chunk,
    exif,
    png,
    read,
    tiff,
    with_alpha,
)

pytestmark = pytest.mark.usefixtures("decoder")

# EXIF 2.32, table "Orientation", in NumPy: stored (H, W, 3) to shown.
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


@pytest.mark.parametrize("name", PILLOW_FILES)
def test_decoding_equals_pillow(tmp_path, name):
    original, file_format, options = PILLOW_FILES[name]
    path = tmp_path / "image"  # without a suffix: the content decides
    original.copy().save(path, file_format, **options)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
        mode = image.mode
    assert np.ptp(expected) > 200
    assert np.array_equal(read(path), expected)
    assert read_header(path, max_pixels=MAX_PIXELS) == ImageHeader(HEIGHT, WIDTH, 1, file_format, mode)


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
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ORIENTED)
def test_orientation_is_applied_or_kept(tmp_path, name, orientation):
    path, plain = tmp_path / "rotated", tmp_path / "plain"
    IMAGE.copy().save(path, name.split()[0], exif=exif(orientation), **ORIENTED[name])
    IMAGE.copy().save(plain, name.split()[0], **ORIENTED[name])
    stored = read(plain)
    assert np.array_equal(stored, NOISE) or name == "JPEG"

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


# ---- 16 bits

ROUNDED = np.floor(WIDE / 257 + 0.5).astype(np.uint8)  # 0..65535 to 0..255


@pytest.mark.parametrize(("color", "channels"), [(0, [0, 0, 0]), (4, [0, 0, 0]), (2, [0, 1, 2]), (6, [0, 1, 2])])
@pytest.mark.parametrize("apply_orientation", [True, False])
def test_16_bit_png_is_scaled(tmp_path, color, channels, apply_orientation, decoder):
    samples = WIDE[..., : {0: 1, 4: 2, 2: 3, 6: 4}[color]].astype(">u2")
    rotated = chunk(b"eXIf", ODD_EXIF["big endian"][0])
    (tmp_path / "image").write_bytes(png([row.tobytes() for row in samples], depth=16, color=color, extra=rotated))
    expected = ROUNDED[..., channels]
    pixels = read(tmp_path / "image", apply_orientation=apply_orientation)
    if apply_orientation:
        expected = np.rot90(expected, -1)
    # Pillow keeps the high byte of colour and alpha images: floor(v / 256) is at most 1 from round(v / 257).
    tolerance = 1 if decoder == "Pillow" and color != 0 else 0
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_tiff_is_scaled(tmp_path, dtype):
    (tmp_path / "image").write_bytes(tiff(WIDE[..., 0], dtype=dtype))
    assert read_header(tmp_path / "image", max_pixels=MAX_PIXELS).mode == {"<u2": "I;16", ">u2": "I;16B"}[dtype]
    assert np.array_equal(read(tmp_path / "image"), ROUNDED[..., [0, 0, 0]])


def test_16_bit_grey_tiff_is_rotated(tmp_path):
    (tmp_path / "image").write_bytes(tiff(WIDE[..., 0], dtype="<u2", extra_tags=[(0x0112, 6)]))
    header = read_header(tmp_path / "image", max_pixels=MAX_PIXELS)
    assert (header.height, header.width, header.orientation) == (WIDTH, HEIGHT, 6)
    assert np.array_equal(read(tmp_path / "image"), np.rot90(ROUNDED[..., [0, 0, 0]], -1))
    assert np.array_equal(read(tmp_path / "image", apply_orientation=False), ROUNDED[..., [0, 0, 0]])


def test_tiff_where_zero_is_white(tmp_path):
    samples = np.array([[0, 257, 65535 - 257, 65535]])
    (tmp_path / "image").write_bytes(tiff(samples, dtype="<u2", photometric=0))
    assert read(tmp_path / "image")[..., 0].tolist() == [[255, 254, 1, 0]]


def test_12_bit_tiff_reaches_white(tmp_path):
    # 0, 4095, 2048, 291 of 4095, three nibbles each: 2048 / 4095 * 255 = 127.5, 291 / 4095 * 255 = 18.1
    (tmp_path / "image").write_bytes(tiff(bytes.fromhex("000fff800123"), dtype="<u2", bits=12))
    assert read(tmp_path / "image")[..., 0].tolist() == [[0, 255, 128, 18]]


@pytest.mark.parametrize(
    ("mode", "dtype", "bits", "sample_format"),
    [("F", "<f4", 32, 3), ("I", "<i4", 32, 2), ("I", "<u4", 32, 1), ("I", "<i2", 16, 2)],
)
def test_samples_without_a_defined_range_are_an_error(tmp_path, mode, dtype, bits, sample_format):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(WIDE[..., 0] % 1000, dtype=dtype, bits=bits, sample_format=sample_format))
    assert read_header(path, max_pixels=MAX_PIXELS).mode == mode
    with pytest.raises(InputError, match=rf"image\.tif: TIFF with 32-bit or signed samples \(mode {mode}\)"):
        read(path)


# ---- installations without torchcodec


def second_copy_of_the_module():
    spec = importlib.util.spec_from_file_location("second_copy", image_module.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("torchcodec", ["absent", "built for another torch"])
def test_pillow_decodes_where_torchcodec_cannot_be_imported(tmp_path, monkeypatch, caplog, torchcodec):
    if torchcodec == "absent":
        monkeypatch.setitem(sys.modules, "torchcodec", None)  # importing it raises ModuleNotFoundError
    else:
        (tmp_path / "torchcodec").mkdir()
        (tmp_path / "torchcodec/__init__.py").write_text('raise RuntimeError("undefined symbol\\nand more lines")')
        monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec" and sys.modules[name]]:
        monkeypatch.delitem(sys.modules, name)
    module = second_copy_of_the_module()
    assert module.decode_image is None
    warned = [record.getMessage() for record in caplog.records]
    assert warned == (
        [] if torchcodec == "absent" else ["torchcodec cannot be imported, so Pillow decodes: undefined symbol"]
    )
    IMAGE.copy().save(tmp_path / "image.jpg")
    assert np.array_equal(
        module.read_image(tmp_path / "image.jpg", max_pixels=MAX_PIXELS),
        read(tmp_path / "image.jpg").transpose(2, 0, 1),
    )
