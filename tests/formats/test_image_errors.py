"""Files that are not images, are damaged, or are too large."""

import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from retinanet.errors import InputError
from retinanet.formats.image import read_header, read_image
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
)


def test_header_is_read_without_pixels(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(png([])[:50])
    assert read_header(path, max_pixels=MAX_PIXELS) == (HEIGHT, WIDTH, 1, "PNG", "RGB")


def test_max_pixels_is_inclusive(tmp_path):
    IMAGE.copy().save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", max_pixels=HEIGHT * WIDTH).shape == (3, HEIGHT, WIDTH)
    for reader in (read_header, read_image):
        with pytest.raises(InputError, match=r"34 x 21 is 714 pixels, expected at most 713;.*data\.max_pixels"):
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
            with pytest.raises(InputError, match=rf"is 400000000 pixels, expected at most {limit};.*data\.max_pixels"):
                read_header(path, max_pixels=limit)


@pytest.mark.parametrize("file_format", ["JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_limit_of_pillow_does_not_matter_and_is_kept(tmp_path, monkeypatch, file_format, decoder):
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
        InputError, match=r"714 pixels, expected at most 713; shrink the image or raise data\.max_pixels"
    ):
        read_image(path, max_pixels=HEIGHT * WIDTH - 1)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_threads_with_other_limits_do_not_disturb_each_other(tmp_path, decoder):
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
    monkeypatch.setattr("retinanet.formats.image.decode_image", fail)
    assert np.array_equal(read(path), complete)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"\(arithmetic coding is not supported\)|header is damaged"):
        read(path)


def test_torchcodec_does_not_decode_animated_webp(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("retinanet.formats.image.decode_image", lambda source, mode: calls.append(mode))
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


def save(path, file_format, **options):
    IMAGE.copy().save(path, file_format, **options)
    return path.read_bytes()


def bad_files(folder):
    """Name -> (content or None for no file, part of the message)."""
    scratch = folder / "scratch"
    rows = [row.tobytes() for row in NOISE]
    good_png, jpeg, webp = png(rows), save(scratch, "JPEG"), save(scratch, "WEBP")
    progressive = save(scratch, "JPEG", progressive=True)
    rotated_png = png(rows[:9], extra=chunk(b"eXIf", ODD_EXIF["big endian"][0]))
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
        "bad_crc.png": (bytes(bad_crc), "damaged or truncated PNG"),
        "bad_zlib.png": (bytes(bad_zlib), "damaged or truncated PNG"),
        "few_rows.png": (png(rows[:9]), "damaged or truncated PNG"),
        "few_rows_rotated.png": (rotated_png, "damaged or truncated PNG"),
        "no_rows.png": (png([]), "damaged or truncated PNG"),
        "no_end.png": (good_png[: idat + 30], "damaged or truncated PNG"),
        "in_header.png": (good_png[:20], "header is damaged"),
        "huge.png": (png([], size=(60_000, 60_000)), "is 3600000000 pixels, expected at most 10000"),
        "large.png": (png([], size=(9_000, 9_000)), "is 81000000 pixels"),
        "huge.jpg": (bytes(huge_jpeg), "is 3600000000 pixels, expected at most 10000"),
        "large.jpg": (bytes(large_jpeg), "is 81000000 pixels"),
        "in_header.jpg": (jpeg[:100], "header is damaged"),
        "half.webp": (webp[: len(webp) // 2], "header is damaged"),
        "half.bmp": (save(scratch, "BMP")[:1500], "damaged or truncated BMP"),
        "half.gif": (save(scratch, "GIF")[:1500], "damaged or truncated GIF"),
        "half.tif": (tiff(WIDE[..., 0], dtype="<u2")[:700], "damaged or truncated TIFF"),
        "words.jpg": (b"a few words, not an image", "not an image"),
        "other_format.jpg": (b"P6 1 1 255\nabc", "expected JPEG, PNG, WEBP, BMP, TIFF, GIF"),
        "empty.jpg": (b"", "empty file"),
        "missing.jpg": (None, "No such file"),
        "folder.jpg": (None, "Is a directory"),
    }
    for name, data in (("baseline", jpeg), ("progressive", progressive)):
        start = data.index(b"\xff\xda") + 20
        for cut in (start, (start + len(data)) // 2, len(data) - 20, len(data) - 2, len(data) - 1):
            files[f"{name}_{cut}.jpg"] = (data[:cut], "damaged or truncated JPEG")
    return files


CHILD = """
import json, resource, sys
if sys.argv[1] == "Pillow":
    sys.modules["torchcodec"] = None  # importing it raises ModuleNotFoundError
from retinanet.formats.image import decode_image, read_image
assert (decode_image is None) == (sys.argv[1] == "Pillow")
for path in sys.argv[2:]:
    for apply_orientation in (True, False):
        try:
            result = list(read_image(path, max_pixels=10_000, apply_orientation=apply_orientation).shape)
        except Exception as error:
            result = [type(error).__name__, str(error)]
        print(json.dumps([path, result]), flush=True)
print(json.dumps(["peak KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def test_bad_files_raise_input_errors_and_do_not_crash_the_process(tmp_path, decoder):
    # Some of these crash torchvision's decoder. In a child process, a crash is a return code and a missing line.
    files = bad_files(tmp_path)
    for name, (content, _) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    paths = [str(tmp_path / name) for name in files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, decoder, *paths]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (child.returncode, lines[-1:], child.stderr[-2000:])
    *results, (_, peak_kib) = lines
    assert [path for path, _ in results] == [path for path in paths for _ in range(2)]
    wrong = [
        (path, result)
        for (path, result), (_, words) in zip(results, (f for f in files.values() for _ in range(2)), strict=True)
        if result[0] != "InputError" or not result[1].startswith(f"{path}: ") or words not in result[1]
    ]
    assert wrong == []
    # 60000 x 60000 x 3 bytes would be 10 GiB; importing torch takes a few hundred MiB.
    assert peak_kib < 2 * 2**20


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
