import json
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from torchcodec.decoders import decode_image

from retinanet.errors import InputError
from retinanet.formats.image import ImageHeader, read_header, read_image

HEIGHT, WIDTH = 21, 34
MAX_PIXELS = 10_000
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (HEIGHT, WIDTH, 4))  # 16-bit samples
IMAGE = Image.fromarray(NOISE)  # saved as a copy: JPEG leaves settings behind that break a later TIFF
SECOND_FRAME = Image.fromarray(255 - NOISE)

# EXIF 2.32, table "Orientation", as NumPy says it: stored (H, W, 3) to shown.
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


def read(path, **kwargs):
    """What read_image gives, checked for form, as a NumPy (H, W, 3)."""
    pixels = read_image(path, max_pixels=MAX_PIXELS, **kwargs)
    assert pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.is_contiguous()
    return pixels.permute(1, 2, 0).numpy()


def with_alpha(picture):
    alpha = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256
    picture = picture.copy()
    picture.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return picture


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, *, depth=8, color=2, size=(WIDTH, HEIGHT), extra=b""):
    """A PNG from rows of bytes, each of filter 0."""
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(samples, *, dtype, photometric=1, bits=16, sample_format=1, extra_tags=()):
    """A one-strip grey TIFF; the letter that opens dtype gives the byte order."""
    order = dtype[0]
    data = samples if isinstance(samples, bytes) else samples.astype(dtype).tobytes()
    height, width = (1, 4) if isinstance(samples, bytes) else samples.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0), *extra_tags]
    tags += [(277, 1), (278, height), (279, len(data)), (339, sample_format)]
    end = 8 + 2 + 12 * len(tags) + 4
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    for tag, value in tags:
        block += struct.pack(f"{order}HHII", tag, 4, 1, end if tag == 273 else value)
    return block + bytes(4) + data


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
def test_equals_pillow(tmp_path, name):
    picture, file_format, options = PILLOW_FILES[name]
    path = tmp_path / "image"  # the content decides, not the suffix
    picture.copy().save(path, file_format, **options)
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
def test_lossless_first_frame_comes_back(tmp_path, file_format, options):
    IMAGE.copy().save(tmp_path / "image", file_format, **options)
    assert np.array_equal(read(tmp_path / "image"), NOISE)


def test_alpha_is_ignored_not_blended(tmp_path):
    for file_format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        with_alpha(IMAGE).save(tmp_path / "image", file_format, **options)
        assert np.array_equal(read(tmp_path / "image"), NOISE), file_format


def test_gif_frame_smaller_than_its_padded_shape(tmp_path):
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
def test_cmyk_jpeg_equals_pillow_whatever_its_adobe_marker_says(tmp_path, adobe_transform):
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
def test_orientation(tmp_path, name, orientation):
    path, plain = tmp_path / "turned", tmp_path / "plain"
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


def tag(order, kind, count, value):
    return struct.pack(f"{order}HHI", 0x0112, kind, count) + value


LITTLE, BIG = b"II*\0\x08\0\0\0\x01\0", b"MM\0*\0\0\0\x08\0\x01"
ODD_EXIF = {
    "big endian": (BIG + tag(">", 3, 1, b"\0\6\0\0"), 6),
    "little endian": (LITTLE + tag("<", 3, 1, b"\6\0\0\0"), 6),
    "without the word that ends the list": (LITTLE + tag("<", 3, 1, b"\6\0"), 6),
    "byte": (LITTLE + tag("<", 1, 1, b"\6\0\0\0"), 6),
    "no value": (LITTLE + tag("<", 3, 0, b"\6\0\0\0"), 6),
    "big endian long": (BIG + tag(">", 4, 1, b"\0\0\0\6"), 1),
    "text": (LITTLE + tag("<", 2, 2, b"6\0\0\0"), 1),
    "zero": (LITTLE + tag("<", 3, 1, b"\0\0\0\0"), 1),
    "nine": (LITTLE + tag("<", 3, 1, b"\x09\0\0\0"), 1),
    "cut off": (LITTLE + tag("<", 3, 1, b""), 1),
    "list beyond the end": (b"II*\0\xff\xff\0\0\1\0", 1),
    "no TIFF": (b"some words that are no EXIF", 1),
}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("name", ODD_EXIF)
def test_header_reads_odd_exif_as_torchcodec_does(tmp_path, file_format, name):
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
    assert decode_image(path).shape == (3, header.height, header.width)
    assert np.array_equal(read(path), SHOWN[orientation](stored))
    assert np.array_equal(read(path, apply_orientation=False), stored)


# ---- 16 bits

ROUNDED = np.floor(WIDE / 257 + 0.5).astype(np.uint8)  # 0..65535 to 0..255


@pytest.mark.parametrize(("color", "channels"), [(0, [0, 0, 0]), (4, [0, 0, 0]), (2, [0, 1, 2]), (6, [0, 1, 2])])
@pytest.mark.parametrize("apply_orientation", [True, False])
def test_16_bit_png_is_scaled(tmp_path, color, channels, apply_orientation):
    samples = WIDE[..., : {0: 1, 4: 2, 2: 3, 6: 4}[color]].astype(">u2")
    turned = chunk(b"eXIf", ODD_EXIF["big endian"][0])
    (tmp_path / "image").write_bytes(png([row.tobytes() for row in samples], depth=16, color=color, extra=turned))
    expected = ROUNDED[..., channels]
    pixels = read(tmp_path / "image", apply_orientation=apply_orientation)
    assert np.array_equal(pixels, np.rot90(expected, -1) if apply_orientation else expected)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_tiff_is_scaled(tmp_path, dtype):
    (tmp_path / "image").write_bytes(tiff(WIDE[..., 0], dtype=dtype))
    assert read_header(tmp_path / "image", max_pixels=MAX_PIXELS).mode == {"<u2": "I;16", ">u2": "I;16B"}[dtype]
    assert np.array_equal(read(tmp_path / "image"), ROUNDED[..., [0, 0, 0]])


def test_16_bit_grey_tiff_is_turned(tmp_path):
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
    # 0, 4095, 2048, 291 of 4095, in three nibbles each: 2048 / 4095 * 255 = 127.5, 291 / 4095 * 255 = 18.1
    (tmp_path / "image").write_bytes(tiff(bytes.fromhex("000fff800123"), dtype="<u2", bits=12))
    assert read(tmp_path / "image")[..., 0].tolist() == [[0, 255, 128, 18]]


@pytest.mark.parametrize(
    ("mode", "dtype", "bits", "sample_format"),
    [("F", "<f4", 32, 3), ("I", "<i4", 32, 2), ("I", "<u4", 32, 1), ("I", "<i2", 16, 2)],
)
def test_samples_without_agreed_range_are_refused(tmp_path, mode, dtype, bits, sample_format):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(WIDE[..., 0] % 1000, dtype=dtype, bits=bits, sample_format=sample_format))
    assert read_header(path, max_pixels=MAX_PIXELS).mode == mode
    with pytest.raises(InputError, match=rf"image\.tif: TIFF with 32-bit or signed samples \(mode {mode}\)"):
        read(path)


# ---- what is no image, or half of one


def test_header_needs_no_pixel(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(png([])[:50])
    assert read_header(path, max_pixels=MAX_PIXELS) == (HEIGHT, WIDTH, 1, "PNG", "RGB")


def test_max_pixels_is_the_largest_allowed(tmp_path):
    IMAGE.copy().save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", max_pixels=HEIGHT * WIDTH).shape == (3, HEIGHT, WIDTH)
    for reader in (read_header, read_image):
        with pytest.raises(InputError, match=r"34 x 21 is 714 pixels, expected at most 713;.*data\.max_pixels"):
            reader(tmp_path / "image.png", max_pixels=HEIGHT * WIDTH - 1)


def test_only_max_pixels_decides_below_the_limit_of_pillow(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png([], size=(10_000, 10_000)))
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(path, max_pixels=10**8).width == 10_000
        with pytest.raises(InputError, match="expected at most 99999999"):
            read_header(path, max_pixels=10**8 - 1)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_image_that_torchcodec_does_not_know_goes_to_pillow(tmp_path, monkeypatch, file_format):
    # None of the files here is one, so torchcodec is made to refuse.
    def refuse(source, mode):
        raise RuntimeError("decode_rows, /a/File.cpp:7, arithmetic coding is not supported")

    path = tmp_path / "image"
    IMAGE.copy().save(path, file_format, exif=exif(6))
    whole = read(path)
    monkeypatch.setattr("retinanet.formats.image.decode_image", refuse)
    assert np.array_equal(read(path), whole)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"\(arithmetic coding is not supported\)|header is damaged"):
        read(path)


def test_animated_webp_is_not_decoded_to_its_last_frame(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("retinanet.formats.image.decode_image", lambda source, mode: calls.append(mode))
    for options in ({"save_all": True, "append_images": [SECOND_FRAME]}, {}):
        IMAGE.copy().save(tmp_path / "image", "WEBP", **options)
        read(tmp_path / "image")
        assert calls == ([] if options else ["RGB"])


def test_jpeg_filled_up_with_zeros_is_refused(tmp_path):
    path = tmp_path / "image.jpg"
    IMAGE.copy().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] + bytes(1000))
    with Image.open(path) as image:
        image.load()  # which is why torchcodec's refusal must stand
    with pytest.raises(InputError, match=r"image\.jpg: damaged or cut-off JPEG"):
        read(path)


def test_pillow_set_to_accept_cut_off_images_is_noticed(tmp_path, monkeypatch):
    IMAGE.copy().save(tmp_path / "image.bmp")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(AssertionError, match="cut-off"):
        read(tmp_path / "image.bmp")


def save(path, file_format, **options):
    IMAGE.copy().save(path, file_format, **options)
    return path.read_bytes()


def bad_files(folder):
    """Name to (content, a word of the message); None as content: nothing is written."""
    scratch = folder / "scratch"
    rows = [row.tobytes() for row in NOISE]
    good_png, jpeg, webp = png(rows), save(scratch, "JPEG"), save(scratch, "WEBP")
    progressive = save(scratch, "JPEG", progressive=True)
    turned_png = png(rows[:9], extra=chunk(b"eXIf", ODD_EXIF["big endian"][0]))
    idat = good_png.index(b"IDAT")
    bad_crc = bytearray(good_png)
    bad_crc[-13] ^= 1  # the last byte of IDAT's checksum
    bad_zlib = bytearray(good_png[:-16]) + bytes(4) + good_png[-12:]
    bad_zlib[idat + 20 : idat + 40] = b"\xff" * 20
    bad_zlib[-16:-12] = struct.pack(">I", zlib.crc32(bad_zlib[idat:-16]))
    huge_jpeg = bytearray(jpeg)
    frame = jpeg.index(b"\xff\xc0")
    huge_jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    large_jpeg = bytearray(jpeg)
    large_jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 9_000, 9_000)
    files = {
        "bad_crc.png": (bytes(bad_crc), "damaged or cut-off PNG"),
        "bad_zlib.png": (bytes(bad_zlib), "damaged or cut-off PNG"),
        "few_rows.png": (png(rows[:9]), "damaged or cut-off PNG"),
        "few_rows_turned.png": (turned_png, "damaged or cut-off PNG"),
        "no_rows.png": (png([]), "damaged or cut-off PNG"),
        "no_end.png": (good_png[: idat + 30], "damaged or cut-off PNG"),
        "in_header.png": (good_png[:20], "header is damaged"),
        "huge.png": (png([], size=(60_000, 60_000)), "pixels that Pillow opens, expected at most 10000"),
        "large.png": (png([], size=(9_000, 9_000)), "81000000 pixels"),
        "huge.jpg": (bytes(huge_jpeg), "pixels that Pillow opens, expected at most 10000"),
        "large.jpg": (bytes(large_jpeg), "81000000 pixels"),
        "in_header.jpg": (jpeg[:100], "header is damaged"),
        "half.webp": (webp[: len(webp) // 2], "header is damaged"),
        "half.bmp": (save(scratch, "BMP")[:1500], "damaged or cut-off BMP"),
        "half.gif": (save(scratch, "GIF")[:1500], "damaged or cut-off GIF"),
        "half.tif": (tiff(WIDE[..., 0], dtype="<u2")[:700], "damaged or cut-off TIFF"),
        "words.jpg": (b"a few words, not an image", "not an image"),
        "other_format.jpg": (b"P6 1 1 255\nabc", "expected JPEG, PNG, WEBP, BMP, TIFF, GIF"),
        "empty.jpg": (b"", "empty file"),
        "missing.jpg": (None, "No such file"),
        "folder.jpg": (None, "Is a directory"),
    }
    for name, data in (("baseline", jpeg), ("progressive", progressive)):
        start = data.index(b"\xff\xda") + 20
        for cut in (start, (start + len(data)) // 2, len(data) - 20, len(data) - 2, len(data) - 1):
            files[f"{name}_{cut}.jpg"] = (data[:cut], "damaged or cut-off JPEG")
    return files


CHILD = """
import json, resource, sys
from retinanet.formats.image import read_image
for path in sys.argv[1:]:
    for apply_orientation in (True, False):
        try:
            found = list(read_image(path, max_pixels=10_000, apply_orientation=apply_orientation).shape)
        except Exception as error:
            found = [type(error).__name__, str(error)]
        print(json.dumps([path, found]), flush=True)
print(json.dumps(["peak KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def test_bad_files_end_in_input_errors_not_in_a_dead_process(tmp_path):
    # torchvision's decoder dies of some of these: in a process of its own, that is a return code and a missing line.
    files = bad_files(tmp_path)
    for name, (content, _) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    paths = [str(tmp_path / name) for name in files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, *paths]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (child.returncode, lines[-1:], child.stderr[-2000:])
    *results, (_, peak_kib) = lines
    assert [path for path, _ in results] == [path for path in paths for _ in range(2)]
    wrong = [
        (path, found)
        for (path, found), (_, words) in zip(results, (f for f in files.values() for _ in range(2)), strict=True)
        if found[0] != "InputError" or not found[1].startswith(f"{path}: ") or words not in found[1]
    ]
    assert wrong == []
    # 60000 x 60000 x 3 bytes would be 10 GiB; importing torch takes a few hundred MiB.
    assert peak_kib < 2 * 2**20


def test_pillow_alone_would_pass_a_png_with_too_few_rows(tmp_path):
    # Why a PNG that torchcodec refuses is not given to Pillow.
    path = tmp_path / "few_rows.png"
    path.write_bytes(png([row.tobytes() for row in NOISE[:9]]))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image)[:9], NOISE[:9])
    with pytest.raises(InputError, match="Not enough image data"):
        read(path)


def test_reason_carries_no_source_path_of_the_decoder(tmp_path):
    IMAGE.copy().save(tmp_path / "image.jpg")
    data = (tmp_path / "image.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:-30])
    with pytest.raises(InputError) as caught:
        read(tmp_path / "cut.jpg")
    assert ".cpp" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that opens and cannot be read")
def test_file_that_opens_but_cannot_be_read():
    with pytest.raises(InputError, match=r"^/proc/self/mem: Input/output error, expected an image that can be read"):
        read("/proc/self/mem")
