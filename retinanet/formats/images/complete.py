"""Detect incomplete JPEG and PNG files, whose missing pixels Pillow fills with grey or black without an error."""

import re
import struct
import zlib
from collections.abc import Iterator

# Any number of fill bytes, then a marker that is neither an escaped data byte 0xFF nor a restart marker.
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
END_OF_IMAGE = b"\xd9"
# First column and row, and column and row spacing, of each pass of an interlaced PNG.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
INFLATE_STEP = 1 << 20  # bytes


def check_jpeg(data: bytes) -> None:
    """Raise ValueError unless the first image of a JPEG file has an end marker."""
    position = 2
    while marker := JPEG_MARKER.search(data, position):
        if marker[1] == END_OF_IMAGE:
            return
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise ValueError("image file is truncated: it has no end marker")


def check_png(data: bytes) -> None:
    """Raise ValueError unless a PNG file contains all rows of its image and its checksums are correct."""
    inflate, found, expected = zlib.decompressobj(), 0, None
    for kind, content in _png_chunks(data):
        if kind == b"IHDR":
            expected = _png_bytes(content)
        elif kind == b"IDAT":
            try:
                while content:  # in small steps, since a few bytes can decompress to gigabytes
                    found += len(inflate.decompress(content, INFLATE_STEP))
                    content = inflate.unconsumed_tail
            except zlib.error as error:
                raise ValueError(f"damaged pixel data: {error}") from None
    if expected is None or found < expected:
        raise ValueError(f"image file is truncated: not enough image data, {found} of {expected} bytes")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each complete chunk; check critical chunks, whose type starts in upper case."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            return
        kind, content = data[position + 4 : position + 8], data[position + 8 : end]
        if kind[:1].isupper() and data[end : end + 4] != struct.pack(">I", zlib.crc32(kind + content)):
            raise ValueError(f"wrong checksum of {kind.decode('latin-1')}")
        yield kind, content
        position = end + 4


def _png_bytes(header: bytes) -> int:
    """Return the number of bytes of all rows, including one filter byte per row."""
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    total = 0
    for left, top, dx, dy in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // dx), -(-(height - top) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * depth * PNG_CHANNELS[color] // 8))
    return total
