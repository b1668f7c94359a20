"""Image files, built byte by byte or by Pillow, and a function that reads them as NumPy arrays."""

import struct
import zlib

import numpy as np
import torch
from PIL import Image

from retinanet.formats.images.reader import read_image

HEIGHT, WIDTH = 21, 34
MAX_PIXELS = 10_000
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (HEIGHT, WIDTH, 4))  # 16-bit samples
IMAGE = Image.fromarray(NOISE)  # save only copies: saving as JPEG leaves settings on the image that break a later TIFF
SECOND_FRAME = Image.fromarray(255 - NOISE)


def read(path, **kwargs):
    """Result of `read_image` as a NumPy array (H, W, 3), after checks of its type and layout."""
    pixels = read_image(path, max_pixels=MAX_PIXELS, **kwargs)
    assert pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.is_contiguous()
    return pixels.permute(1, 2, 0).numpy()


def with_alpha(image):
    """A copy with an alpha channel that contains all values."""
    alpha = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256
    image = image.copy()
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def exif(orientation):
    """An EXIF block with an orientation."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def chunk(kind, data):
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, *, depth=8, color=2, size=(WIDTH, HEIGHT), extra=b""):
    """A PNG with the given rows of bytes, without filters."""
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(samples, *, dtype, photometric=1, bits=16, sample_format=1, extra_tags=()):
    """A grey TIFF with one strip; the first character of `dtype` is the byte order."""
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


def tag(order, kind, count, value):
    """An EXIF entry for the orientation."""
    return struct.pack(f"{order}HHI", 0x0112, kind, count) + value


LITTLE, BIG = b"II*\0\x08\0\0\0\x01\0", b"MM\0*\0\0\0\x08\0\x01"
ODD_EXIF = {  # name: EXIF block, orientation that torchcodec applies
    "big endian": (BIG + tag(">", 3, 1, b"\0\6\0\0"), 6),
    "little endian": (LITTLE + tag("<", 3, 1, b"\6\0\0\0"), 6),
    "without the end of the list": (LITTLE + tag("<", 3, 1, b"\6\0"), 6),
    "byte": (LITTLE + tag("<", 1, 1, b"\6\0\0\0"), 6),
    "no value": (LITTLE + tag("<", 3, 0, b"\6\0\0\0"), 6),
    "big endian long": (BIG + tag(">", 4, 1, b"\0\0\0\6"), 1),
    "text": (LITTLE + tag("<", 2, 2, b"6\0\0\0"), 1),
    "zero": (LITTLE + tag("<", 3, 1, b"\0\0\0\0"), 1),
    "nine": (LITTLE + tag("<", 3, 1, b"\x09\0\0\0"), 1),
    "truncated": (LITTLE + tag("<", 3, 1, b""), 1),
    "list beyond the end": (b"II*\0\xff\xff\0\0\1\0", 1),
    "no TIFF": (b"some text instead of EXIF", 1),
}
