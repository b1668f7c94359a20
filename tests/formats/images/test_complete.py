"""Incomplete files, cut at every byte, and complete files of every kind."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retinanet.formats.images.complete import check_jpeg, check_png
from tests.helpers.image_files import IMAGE, NOISE, SECOND_FRAME, chunk, exif, png

ROWS = [row.tobytes() for row in NOISE]


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.copy().save(file, file_format, **options)
    return file.getvalue()


def with_thumbnail(data):
    """Insert an application segment that contains another complete JPEG, like an EXIF thumbnail."""
    small = encoded(IMAGE.resize((8, 5)), "JPEG")
    return data[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + data[2:]


JPEGS = {
    "baseline": encoded(IMAGE, "JPEG"),
    "progressive": encoded(IMAGE, "JPEG", progressive=True),
    "grey": encoded(IMAGE.convert("L"), "JPEG"),
    "restart markers": encoded(IMAGE, "JPEG", restart_marker_blocks=1),
    "thumbnail": with_thumbnail(encoded(IMAGE, "JPEG")),
    "exif": encoded(IMAGE, "JPEG", exif=exif(6)),
}


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_is_complete_with_its_last_byte(name):
    data = JPEGS[name]
    check_jpeg(data)
    check_jpeg(data + b"bytes after the end, \xff\xda\0\2 even such")
    for length in range(2, len(data)):
        with pytest.raises(ValueError, match="truncated"):
            check_jpeg(data[:length])


def test_only_the_first_image_of_an_mpo_is_checked():
    check_jpeg(encoded(IMAGE, "MPO", save_all=True, append_images=[SECOND_FRAME.copy()])[:-100])


# Sides below 9 leave some of the seven passes of an interlaced PNG empty.
@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 20), height=st.integers(1, 20), mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]))
def test_png_of_any_size_and_mode_is_complete(width, height, mode):
    check_png(encoded(IMAGE.resize((width, height)).convert(mode), "PNG"))


# From the PNG specification: 8 bits, grey. Rows have a filter byte; passes without columns have no rows.
# 1x1: one row of pass 1. 2x2: passes 1 (1x1), 6 (1x1), 7 (2x1). 5x5: 1 (1x1), 2 (1x1), 3 (2x1), 4 (1x2), 5 (3x1),
# 6 (2x3), 7 (5x2).
@pytest.mark.parametrize(
    ("side", "passes"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (1, 1), (2, 1)]),
        (5, [(1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (2, 3), (5, 2)]),
    ],
)
def test_interlaced_png_has_the_rows_of_its_passes(side, passes):
    rows = [bytes(columns) for columns, count in passes for _ in range(count)]

    def interlaced(rows):
        data = bytearray(png(rows, color=0, size=(side, side)))
        header = data[16:29][:-1] + b"\1"
        return bytes(data[:8]) + chunk(b"IHDR", bytes(header)) + bytes(data[33:])

    check_png(interlaced(rows))
    with Image.open(io.BytesIO(interlaced(rows))) as image:  # Pillow accepts it
        assert image.info["interlace"] == 1
        image.load()
    with pytest.raises(ValueError, match="not enough image data"):
        check_png(interlaced(rows[:-1]))


def test_png_is_complete_without_its_end_but_not_without_a_row():
    data = png(ROWS)
    check_png(data)
    check_png(data + b"bytes after the end")
    check_png(data[:-12])  # Pillow and torchcodec decode it: no pixel is missing
    for rows in (ROWS[:-1], ROWS[:1], []):
        with pytest.raises(ValueError, match="not enough image data"):
            check_png(png(rows))
    for length in range(33, len(data) - 12):
        with pytest.raises(ValueError, match="not enough image data"):
            check_png(data[:length])


def test_every_flipped_bit_of_the_pixel_data_is_detected():
    data = png(ROWS)
    start = data.index(b"IDAT") + 4
    for position in range(start, len(data) - 12, 37):
        flipped = bytearray(data)
        flipped[position] ^= 1
        with pytest.raises(ValueError, match="wrong checksum of IDAT"):
            check_png(bytes(flipped))


def test_checksum_of_an_optional_chunk_is_ignored():
    text = bytearray(chunk(b"tEXt", b"Comment\0none"))
    text[-1] ^= 1
    check_png(png(ROWS, extra=bytes(text)))
