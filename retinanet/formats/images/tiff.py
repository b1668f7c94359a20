"""Read TIFF samples that Pillow cannot: more than four bands, and 16-bit or floating-point colour.

Pillow (libtiff) still decompresses each strip or tile, presented to it as a grey 8-bit image; this module converts the
bytes to samples. It supports chunky and planar layouts, strips and tiles, classic TIFF and BigTIFF, integers and
floating-point numbers of 8 to 64 bits, and the usual predictors. JPEG compression, palettes, CMYK and YCbCr are left
to Pillow.
"""

import io
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from retinanet.formats.images.orientation import ORIENTATION_TAG, valid_orientation
from retinanet.formats.images.pillow_limit import pillow_limit
from retinanet.formats.images.value_range import Samples

PREFIXES = (b"II*\0", b"MM\0*", b"II+\0")  # Pillow reads the tags of BigTIFF only if they are little-endian
COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "zstd"}
RAW_PHOTOMETRICS = (32803, 34892)  # colour filter array and linear raw
DNG_VERSION, SUB_IFDS, NEW_SUBFILE_TYPE = 50706, 330, 254
EXTRA_SAMPLES, ALPHA_KINDS = 338, (1, 2)  # associated and unassociated alpha; 0 is unspecified data
REDUCED_OR_MASK = 1 | 4  # bits of NEW_SUBFILE_TYPE: a preview or overview, or a transparency mask
MAX_PAGES = 64  # pages searched for one that is not an overview

# Decoded strips and tiles may take this many times the bytes of the image, which is more than tile padding needs.
MAX_EXPANSION = 16
SMALL = 1 << 24  # bytes exempt from this limit: tiles can be large compared with a small image


class Tiff(NamedTuple):
    """The first image of a TIFF file: its layout and the positions of its strips or tiles."""

    height: int  # as stored
    width: int
    orientation: int
    bands: int  # samples per pixel, including alpha
    bits: int
    dtype: np.dtype | None  # None if only Pillow may be able to read the samples
    photometric: int
    compression: int
    is_planar: bool
    predictor: int
    block: tuple[int, int]  # height and width of a strip or tile
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    nodata: float | None
    is_raw: bool  # a camera's RAW file with a preview instead of the image
    alpha: tuple[int, ...] = ()  # bands that are marked as alpha, counted from 1

    @property
    def layout(self) -> str:
        """Describe bands and samples for a message."""
        samples = f"{self.dtype.name} samples" if self.dtype else f"{self.bits}-bit samples"
        compression = COMPRESSIONS.get(self.compression, self.compression)
        return f"{self.bands} band(s) of {samples}, photometric {self.photometric}, compression {compression}"

    def memory(self, num_bands: int) -> int:
        """Return the bytes needed to decode some bands, besides the result: samples, and two strips or tiles."""
        assert self.dtype is not None
        return self.dtype.itemsize * (self.height * self.width * num_bands + 2 * self._block_samples())

    def _block_samples(self) -> int:
        return self.block[0] * self.block[1] * (1 if self.is_planar else self.bands)


def read_tiff(file: BinaryIO) -> Tiff:
    """Read the tags of the first image.

    Raises:
        ValueError: a tag is missing or invalid.
    """
    try:
        tags = _directory(file)
        return _parse(tags)
    except ValueError:
        raise
    except Exception as error:  # Pillow does not check the type and number of a tag's values
        raise ValueError(f"damaged TIFF tags ({type(error).__name__}: {error})") from None


def has_more_pages(file: BinaryIO) -> bool:
    """Return whether another image follows the first, not counting overviews and masks."""
    with suppress(Exception):  # the first image can still be read
        tags = _directory(file)
        for _ in range(MAX_PAGES):
            if not tags.next:
                return False
            tags = _directory(file, tags.next)
            if not int(tags.get(NEW_SUBFILE_TYPE, 0)) & REDUCED_OR_MASK:
                return True
    return False


def read_samples(file: BinaryIO, tiff: Tiff, bands: Sequence[int]) -> Samples:
    """Decode some bands (numbered from 1) to an array (H, W, N) in the machine's byte order, as stored.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    assert tiff.dtype is not None
    across, down = -(-tiff.width // tiff.block[1]), -(-tiff.height // tiff.block[0])
    per_band = across * down
    planes = [(band - 1) * per_band for band in bands] if tiff.is_planar else [0]
    found = min(len(tiff.offsets), len(tiff.byte_counts))
    if found < max(planes) + per_band:
        raise ValueError(f"image file is truncated: it has {found} strips or tiles of {max(planes) + per_band}")
    image_samples = tiff.height * tiff.width * tiff.bands
    work = len(planes) * per_band * tiff.memory(0)
    if work > max(SMALL, 2 * MAX_EXPANSION * tiff.dtype.itemsize * image_samples):
        raise ValueError("its strips or tiles are much larger than the image")

    values = np.empty((tiff.height, tiff.width, len(bands)), tiff.dtype.newbyteorder("="))
    for position, first in enumerate(planes):
        for number in range(per_band):
            top, left = number // across * tiff.block[0], number % across * tiff.block[1]
            block = _block(file, tiff, first + number, rows=min(tiff.block[0], tiff.height - top))
            block = block[:, : tiff.width - left]
            target = values[top : top + len(block), left : left + block.shape[1]]
            if tiff.is_planar:
                target[..., position] = block[..., 0]
            else:
                target[...] = block[..., [band - 1 for band in bands]]
    return Samples(values, bits=tiff.bits, zero_is_white=tiff.photometric == 0, nodata=tiff.nodata)


def _directory(file: BinaryIO, offset: int | None = None) -> ImageFileDirectory_v2:
    """Read the tags at an offset, by default those of the first image."""
    file.seek(0)
    header = file.read(8)
    if header[2:3] == b"+":
        header += file.read(8)
    tags = ImageFileDirectory_v2(header)
    file.seek(tags.next if offset is None else offset)
    tags.load(file)
    return tags


def _parse(tags: ImageFileDirectory_v2) -> Tiff:
    def one(tag: int, default: int) -> int:
        return int(many(tag, (default,))[0])

    def many(tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        value = tags.get(tag, default)
        return value if isinstance(value, tuple) else (value,)

    width, height = one(256, 0), one(257, 0)
    if width < 1 or height < 1:
        raise ValueError(f"its tags give a size of {width} x {height} pixels")
    is_tiled = 324 in tags
    block = (one(323, 0), one(322, 0)) if is_tiled else (min(one(278, height), height), width)
    if min(block) < 1:
        raise ValueError(f"its tags give strips or tiles of {block[1]} x {block[0]} pixels")
    bits = many(258, (1,))
    offsets, byte_counts = many(324 if is_tiled else 273), many(325 if is_tiled else 279)
    if min(offsets + byte_counts, default=0) < 0:  # Pillow accepts signed numbers; `read` would return the whole file
        raise ValueError("its tags give strips or tiles with a negative position or size")
    return Tiff(
        height=height,
        width=width,
        orientation=valid_orientation(tags.get(ORIENTATION_TAG)),
        bands=one(277, 1),
        bits=int(bits[0]),
        dtype=_dtype(one(262, 0), one(259, 1), one(266, 1), bits, many(339, (1,)), tags.prefix),
        photometric=one(262, 0),
        compression=one(259, 1),
        is_planar=one(284, 1) == 2,
        predictor=one(317, 1),
        block=block,
        offsets=offsets,
        byte_counts=byte_counts,
        nodata=_number(tags.get(42113)),
        is_raw=DNG_VERSION in tags
        or one(262, 0) in RAW_PHOTOMETRICS
        or (SUB_IFDS in tags and bool(one(NEW_SUBFILE_TYPE, 0) & 1)),
        alpha=_alpha(many(EXTRA_SAMPLES), one(277, 1)),
    )


def _alpha(extra: tuple[int, ...], bands: int) -> tuple[int, ...]:
    """Find the bands that are marked as alpha: the tag describes the last bands of a pixel."""
    numbers = range(bands - len(extra) + 1, bands + 1)
    return tuple(band for band, kind in zip(numbers, extra, strict=True) if kind in ALPHA_KINDS and band > 0)


def _dtype(
    photometric: int, compression: int, fill_order: int, bits: tuple[int, ...], formats: tuple[int, ...], prefix: bytes
) -> np.dtype | None:
    """Return the type of a sample in the file; None for types that only Pillow may be able to read."""
    kind = {1: "u", 2: "i", 3: "f", 4: "u"}.get(formats[0])
    if kind is None or len(set(bits)) > 1 or len(set(formats)) > 1 or bits[0] not in (8, 12, 16, 32, 64):
        return None
    if (
        photometric not in (0, 1, 2)
        or compression not in COMPRESSIONS
        or fill_order != 1
        or (kind, bits[0]) == ("f", 8)
    ):
        return None
    if bits[0] == 12:
        return np.dtype(np.uint16) if kind == "u" else None
    return np.dtype(f"{'<' if prefix == b'II' else '>'}{kind}{bits[0] // 8}")


def _number(text: object) -> float | None:
    with suppress(ValueError):
        return float(text.strip("\0 ")) if isinstance(text, str) else None
    return None


def _block(file: BinaryIO, tiff: Tiff, number: int, *, rows: int) -> np.ndarray:
    """Decode the first rows of a strip or tile to (rows, block width, bands)."""
    assert tiff.dtype is not None
    width, in_block = tiff.block[1], 1 if tiff.is_planar else tiff.bands
    row_bytes = -(-width * in_block * tiff.bits // 8)
    file.seek(tiff.offsets[number])
    if tiff.compression == 1:
        data = np.frombuffer(file.read(rows * row_bytes), np.uint8)
        if len(data) < rows * row_bytes:
            raise ValueError("image file is truncated")
        data = data.reshape(rows, row_bytes)
    else:
        longest = 2 * tiff.block[0] * row_bytes + 4096  # compression never exceeds this
        data = file.read(min(tiff.byte_counts[number], longest))
        data = _decompress(data, tiff.compression, rows, row_bytes)
    if tiff.bits == 12:
        return _unpack_12_bits(data)[:, : width * in_block].reshape(rows, width, in_block)
    if tiff.predictor == 3 and tiff.dtype.kind == "f":
        # Byte differences; the most significant bytes of a row come first in either byte order.
        planes = data.reshape(rows, -1, in_block).cumsum(axis=1, dtype=np.uint8).reshape(rows, tiff.dtype.itemsize, -1)
        values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(tiff.dtype.newbyteorder(">"))
        return values.reshape(rows, width, in_block)
    values = data.view(tiff.dtype).reshape(rows, width, in_block)
    if tiff.predictor == 2:
        unsigned = np.dtype(f"u{tiff.dtype.itemsize}")
        differences = values.view(unsigned.newbyteorder(tiff.dtype.byteorder))
        return differences.cumsum(axis=1, dtype=unsigned).view(tiff.dtype.newbyteorder("="))
    if tiff.predictor != 1:
        raise ValueError(f"unknown predictor {tiff.predictor}")
    return values


def _unpack_12_bits(data: np.ndarray) -> np.ndarray:
    """Unpack rows with two samples in every three bytes to uint16."""
    padded = np.pad(data, [(0, 0), (0, -data.shape[1] % 3)]).astype(np.uint16)
    first, middle, last = padded[:, 0::3], padded[:, 1::3], padded[:, 2::3]
    return np.stack([first << 4 | middle >> 4, (middle & 15) << 8 | last], axis=2).reshape(len(data), -1)


def _decompress(data: bytes, compression: int, rows: int, row_bytes: int) -> np.ndarray:
    """Decompress a strip or tile to bytes (rows, row_bytes): Pillow reads it as a grey TIFF with a single strip."""
    tags = {256: row_bytes, 257: rows, 258: 8, 259: compression, 262: 1, 273: 0, 277: 1, 278: rows, 279: len(data)}
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value or start) for tag, value in tags.items())
    file = io.BytesIO(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data)
    try:
        with pillow_limit(rows * row_bytes), Image.open(file, formats=("TIFF",)) as image:
            return np.array(image)
    except UnidentifiedImageError:
        raise ValueError(f"compression {COMPRESSIONS[compression]} is not supported by the installed Pillow") from None
