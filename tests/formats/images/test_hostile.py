"""Damaged and hostile files of every kind result in an image or an `InputError`, in bounded time and memory."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import features

from retinanet.errors import InputError
from retinanet.formats.images.opened import open_image
from retinanet.formats.images.reader import read_image
from tests.helpers.image_files import IMAGE, MAX_PIXELS, NOISE, ODD_EXIF, SECOND_FRAME, WIDE, chunk, exif, png, tiff
from tests.helpers.tiff_files import tiff_of

ROWS = [row.tobytes() for row in NOISE]


def saved(image, file_format, **options):
    file = io.BytesIO()
    image.copy().save(file, file_format, **options)
    return file.getvalue()


def png_16(channels, color):
    return png([row.tobytes() for row in WIDE[..., :channels].astype(">u2")], depth=16, color=color)


def several_frames(file_format):
    return saved(IMAGE, file_format, save_all=True, append_images=[SECOND_FRAME.copy()])


FILES = {
    "jpeg": saved(IMAGE, "JPEG", exif=exif(6)),
    "jpeg progressive": saved(IMAGE, "JPEG", progressive=True),
    "jpeg CMYK": saved(IMAGE.convert("CMYK"), "JPEG"),
    "mpo": several_frames("MPO"),
    "png": saved(IMAGE, "PNG"),
    "png palette": saved(IMAGE.quantize(16), "PNG"),
    "png 16 bits": png_16(3, 2),
    "png 16 bits grey and alpha": png_16(2, 4),
    "png animated": several_frames("PNG"),
    "webp": saved(IMAGE, "WEBP"),
    "webp animated": several_frames("WEBP"),
    "gif": several_frames("GIF"),
    "bmp": saved(IMAGE, "BMP"),
    "bmp palette": saved(IMAGE.quantize(100), "BMP"),
    "tiff": several_frames("TIFF"),
    "tiff lzw": saved(IMAGE, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": saved(IMAGE, "TIFF", compression="jpeg"),
    "tiff 8 bands": tiff_of(np.concatenate([WIDE, WIDE], axis=2).astype(np.uint8), deflate=True, predictor=2, rows=5),
    "tiff 16 bits": tiff_of(WIDE.astype(np.uint16), tile=(16, 16)),
    "tiff 12 bits": tiff(bytes.fromhex("000fff800123"), dtype="<u2", bits=12),
    "tiff float": tiff_of(WIDE.astype(np.float32), planar=True, deflate=True, predictor=3),
    "heic": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(50),
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
}
if features.check("avif"):
    FILES["avif"] = saved(IMAGE, "AVIF")

POSITIONS = st.one_of(st.integers(0, 40), st.integers(0, 400), st.integers(0, 1 << 20))
VALUES = st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))
CHANGES = st.lists(st.tuples(POSITIONS, st.sampled_from(["set", "insert", "remove"]), VALUES), max_size=8)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=20, deadline=None)
@given(changes=CHANGES, length=st.one_of(st.none(), POSITIONS), bands=st.sampled_from([None, (1,), (3, 2, 1)]))
def test_changed_and_truncated_bytes(tmp_path_factory, name, changes, length, bands):
    data = bytearray(FILES[name][:length])
    for position, change, value in changes:
        position = min(position, max(0, len(data) - 1))
        data[position : position + (change != "insert")] = b"" if change == "remove" else bytes([value])
    path = tmp_path_factory.getbasetemp() / f"hostile-{os.getpid()}"
    path.write_bytes(data)
    try:
        with open_image(path, max_pixels=MAX_PIXELS) as opened:
            opened.has_more_frames()
            pixels = opened.decode(bands=bands)
            assert pixels.shape == (3, opened.header.height, opened.header.width)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def bombs():
    """Name -> (content, part of the message or None if the image is read); each expands to 64 MiB or more."""
    zeros = zlib.compress(bytes(1 << 26), 9)
    rows = zlib.compress(bytes(1 << 26), 9)
    png_header = png([])[8:33]
    tags = [(273, 4, [1 << 31]), (279, 4, [(1 << 32) - 1])]
    wide = np.zeros((16, 16, 1), np.uint16)
    return {
        "text.png": (png(ROWS, extra=chunk(b"zTXt", b"Comment\0\0" + zeros)), "header is damaged"),
        "international.png": (png(ROWS, extra=chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros)), "header is damaged"),
        "profile.png": (png(ROWS, extra=chunk(b"iCCP", b"profile\0\0" + zeros)), "header is damaged"),
        "rows.png": (b"\x89PNG\r\n\x1a\n" + png_header + chunk(b"IDAT", rows) + chunk(b"IEND", b""), None),
        "many_texts.png": (
            png(ROWS, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 100),
            "header is damaged",
        ),
        "huge.png": (png([], size=(60_000, 60_000)), "has 3600000000 pixels, expected at most 10000"),
        "huge.tif": (
            tiff_of(wide, tags=[(256, 4, [60_000]), (257, 4, [60_000])]),
            "has 3600000000 pixels (60000 x 60000)",
        ),
        "offset.tif": (tiff_of(wide, tags=tags), "truncated"),
        "offset_deflate.tif": (tiff_of(wide, deflate=True, tags=tags), "damaged or truncated"),
        "rows.tif": (tiff_of(wide, deflate=True, tags=[(278, 4, [(1 << 32) - 1])]), None),
        "tile.tif": (
            tiff_of(wide, tile=(16, 16), deflate=True, tags=[(322, 4, [1 << 31]), (323, 4, [1 << 31])]),
            "need 18446744073709",
        ),
        "bands.tif": (tiff_of(wide, tags=[(277, 4, [1 << 31])]), "has 2147483648 bands"),
        "count.tif": (
            tiff_of(wide)[:8] + struct.pack("<H", 1) + struct.pack("<HHII", 273, 4, (1 << 32) - 1, 8) + bytes(4),
            "header is damaged",
        ),
    }


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
        "huge.png": (png([], size=(60_000, 60_000)), "has 3600000000 pixels, expected at most 10000"),
        "large.png": (png([], size=(9_000, 9_000)), "has 81000000 pixels"),
        "huge.jpg": (bytes(huge_jpeg), "has 3600000000 pixels, expected at most 10000"),
        "large.jpg": (bytes(large_jpeg), "has 81000000 pixels"),
        "in_header.jpg": (jpeg[:100], "header is damaged"),
        "half.webp": (webp[: len(webp) // 2], "header is damaged"),
        "half.bmp": (save(scratch, "BMP")[:1500], "damaged or truncated BMP"),
        "half.gif": (save(scratch, "GIF")[:1500], "damaged or truncated GIF"),
        "half.tif": (tiff(WIDE[..., 0], dtype="<u2")[:700], "damaged or truncated TIFF"),
        "words.jpg": (b"a few words, not an image", "not an image"),
        "other_format.jpg": (b"some other format", "expected JPEG, PNG, WEBP, BMP, TIFF, GIF"),
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
from retinanet.formats.images.decode import decode_image
from retinanet.formats.images.reader import read_image
assert (decode_image is None) == (sys.argv[1] == "Pillow")
read_image(sys.argv[2], max_pixels=10_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[3:]:
    for apply_orientation in (True, False):
        try:
            result = list(read_image(path, max_pixels=10_000, apply_orientation=apply_orientation).shape)
        except Exception as error:
            result = [type(error).__name__, str(error)]
        print(json.dumps([path, result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]), flush=True)
"""


@pytest.mark.slow
def test_no_file_crashes_the_process_or_needs_much_memory(tmp_path, decoder):
    # Some of these crash torchvision's decoder. In a child process, a crash is a return code and a missing line.
    files = bad_files(tmp_path) | bombs()
    (tmp_path / "first.png").write_bytes(png(ROWS))
    for name, (content, _) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    paths = [str(tmp_path / name) for name in files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, decoder, str(tmp_path / "first.png"), *paths]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (child.returncode, lines[-1:], child.stderr[-2000:])
    assert [path for path, _, _ in lines] == [path for path in paths for _ in range(2)]
    for number, (path, result, grown_kib) in enumerate(lines):
        words = list(files.values())[number // 2][1]
        if words is None:
            assert result[0] == 3, (path, result)
        else:
            assert result[0] == "InputError", (path, result)
            assert result[1].startswith(f"{path}: ") and words in result[1]
        # No file is expanded in full: the bombs need 64 MiB or more, and 60000 x 60000 pixels need 10 GiB.
        assert grown_kib < 48 * 1024, (path, grown_kib)


def test_memory_of_a_tiff_is_limited_by_max_pixels(tmp_path):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff_of(np.zeros((100, 100, 8), np.float64), deflate=True))
    # One band of the result, and the strip of 8 bands twice: 100 x 100 x 8 bytes x 17 = 1,360,000 = 8 x 170,000.
    words = r"8 band\(s\) of float64 samples.* need 1360000 bytes.*set data\.max_pixels to at least 170000$"
    with pytest.raises(InputError, match=words):
        read_image(path, max_pixels=169_999, bands=(1,))
    assert read_image(path, max_pixels=170_000, bands=(1,)).shape == (3, 100, 100)
