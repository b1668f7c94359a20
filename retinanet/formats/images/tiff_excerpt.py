"""Cut rectangles of strips or tiles out of a TIFF file, without decoding them: each becomes a small TIFF in memory.

The small TIFF has the tags of the file that decoding depends on, so the same code decodes it to the same pixels: strips
and tiles are compressed independently of each other. An uncompressed strip is divided further.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from retinanet.formats.images.tiff import Tiff

WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT = 256, 257, 278, 322, 323
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
# Copied unchanged: bits, compression, photometric, fill order, samples, planar configuration, fax options, predictor,
# colour map, inks, extra samples, sample format, JPEG tables, value without data, and four tags of YCbCr.
COPIED = (258, 259, 262, 266, 277, 284, 292, 293, 317, 320, 332, 338, 339, 347, 42113, 529, 530, 531, 532)
LONG = 4
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8, 18: 8}
UNCOMPRESSED, OLD_JPEG, YCBCR = 1, 6, 6

MAX_ENTRIES = 4096  # in a directory of tags
MAX_TAG_BYTES = 1 << 20  # of a tag that is copied
SIDE = 256  # smaller strips and tiles are cut out together, to decode them faster
EXCERPT_BYTES = 1 << 24  # decoded size beyond which no more strips or tiles are added


class _Entry(NamedTuple):
    """A tag as stored in the file."""

    type: int
    count: int
    data: bytes  # in the byte order of the file


class TiffExcerpts:
    """The first image of a TIFF file as a grid of rectangles that can be decoded one by one.

    Args:
        max_pixels: maximum number of pixels of a rectangle.

    Raises:
        ValueError: the image cannot be divided; the message says why.
    """

    def __init__(self, file: BinaryIO, tiff: Tiff, *, max_pixels: int):
        self._file = file
        self._order, entries = _first_directory(file)
        self._copied = {tag: entry for tag, entry in entries.items() if tag in COPIED}
        self._is_tiled = TILE_OFFSETS in entries
        if tiff.compression == OLD_JPEG:
            raise ValueError("its compression is JPEG as in TIFF 6.0")
        self._block = tiff.block  # height and width of a strip or tile of the small TIFFs
        self._bits_per_pixel = max(tiff.bits, 1) * (1 if tiff.is_planar else max(tiff.bands, 3))
        self._planes = tiff.bands if tiff.is_planar else 1
        self._strip_rows = tiff.block[0]
        self._row_bytes: int | None = None  # of an uncompressed strip
        if tiff.compression == UNCOMPRESSED and not self._is_tiled and tiff.photometric != YCBCR:
            self._row_bytes = -(-tiff.width * tiff.bits * (1 if tiff.is_planar else tiff.bands) // 8)
            self._block = (_divisor(tiff.block[0], tiff.height), tiff.width)
        self.height, self.width = tiff.height, tiff.width  # as stored
        self._down, self._across = -(-tiff.height // self._block[0]), -(-tiff.width // self._block[1])
        strips_down = -(-tiff.height // self._strip_rows)
        self._per_plane = self._across * strips_down
        self._offsets, self._byte_counts = tiff.offsets, tiff.byte_counts
        known = len(tiff.offsets) if self._row_bytes else min(len(tiff.offsets), len(tiff.byte_counts))
        if known < self._planes * self._per_plane:
            raise ValueError("it is truncated, or its tags lack positions of strips or tiles")
        block_pixels = self._block[0] * self._block[1]
        if block_pixels > max_pixels:
            raise ValueError(f"its strips or tiles are {self._block[1]} x {self._block[0]} pixels")
        allowed = max(1, min(max_pixels // block_pixels, EXCERPT_BYTES * 8 // (self._bits_per_pixel * block_pixels)))
        across = 1 if not self._is_tiled else min(-(-SIDE // self._block[1]), allowed)
        down = min(-(-SIDE // self._block[0]), max(1, allowed // across))
        self._group = down, across  # strips or tiles in an excerpt
        self.size = self._block[0] * down, self._block[1] * across  # height and width of a rectangle of the grid

    def cut(self, row: int, column: int) -> bytes:
        """Return a rectangle of the grid as the content of a TIFF file; those at the edges are smaller.

        Raises:
            OSError: the file cannot be read.
        """
        top, left = row * self.size[0], column * self.size[1]
        height, width = min(self.size[0], self.height - top), min(self.size[1], self.width - left)
        blocks = list(self._blocks(row, column))
        entries = dict(self._copied)
        entries |= {WIDTH: self._numbers(LONG, width), HEIGHT: self._numbers(LONG, height)}
        header = 8
        offsets = [header]
        for block in blocks[:-1]:
            offsets.append(offsets[-1] + len(block))
        positions, sizes = self._numbers(LONG, *offsets), self._numbers(LONG, *(len(block) for block in blocks))
        if self._is_tiled:
            entries |= {TILE_HEIGHT: self._numbers(LONG, self._block[0])}
            entries |= {TILE_WIDTH: self._numbers(LONG, self._block[1]), TILE_OFFSETS: positions, TILE_BYTES: sizes}
        else:
            rows = min(self._block[0], height)
            entries |= {ROWS_PER_STRIP: self._numbers(LONG, rows), STRIP_OFFSETS: positions, STRIP_BYTES: sizes}
        content = b"".join(blocks)
        content += bytes(len(content) % 2)  # directories start at an even position
        start = header + len(content)
        magic = b"II*\0" if self._order == "<" else b"MM\0*"
        return magic + struct.pack(f"{self._order}I", start) + content + self._directory(entries, start)

    def _blocks(self, row: int, column: int) -> Iterator[bytes]:
        """Yield the strips or tiles of a rectangle, as compressed in the file, in the order of a TIFF."""
        down, across = self._group
        for plane in range(self._planes):
            for block_row in range(row * down, min((row + 1) * down, self._down)):
                for block_column in range(column * across, min((column + 1) * across, self._across)):
                    yield self._read_block(plane, block_row, block_column)

    def _read_block(self, plane: int, row: int, column: int) -> bytes:
        if self._row_bytes is None:
            number = plane * self._per_plane + row * self._across + column
            # Compression hardly ever enlarges the data; the limit keeps a damaged file from being read into memory.
            longest = self._block[0] * self._block[1] * self._bits_per_pixel // 2 + (1 << 16)
            self._file.seek(self._offsets[number])
            return self._file.read(min(self._byte_counts[number], longest))
        top = row * self._block[0]
        strip, rows_before = divmod(top, self._strip_rows)
        self._file.seek(self._offsets[plane * self._per_plane + strip] + rows_before * self._row_bytes)
        return self._file.read(min(self._block[0], self.height - top) * self._row_bytes)

    def _numbers(self, kind: int, *values: int) -> _Entry:
        return _Entry(kind, len(values), struct.pack(f"{self._order}{len(values)}I", *values))

    def _directory(self, entries: dict[int, _Entry], start: int) -> bytes:
        """Encode tags as a directory at a position in a file that is not BigTIFF."""
        position = start + 2 + 12 * len(entries) + 4
        directory, extra = struct.pack(f"{self._order}H", len(entries)), b""
        for tag, entry in sorted(entries.items()):
            directory += struct.pack(f"{self._order}HHI", tag, entry.type, entry.count)
            if len(entry.data) <= 4:
                directory += entry.data.ljust(4, b"\0")
            else:
                directory += struct.pack(f"{self._order}I", position + len(extra))
                extra += entry.data + bytes(len(entry.data) % 2)
        return directory + bytes(4) + extra


def _divisor(strip_rows: int, height: int) -> int:
    """Number of rows of the parts into which uncompressed strips are divided; it is the same in all strips."""
    if strip_rows >= height:
        return min(strip_rows, SIDE)
    return next(rows for rows in range(min(strip_rows, SIDE), 0, -1) if strip_rows % rows == 0)


def _first_directory(file: BinaryIO) -> tuple[str, dict[int, _Entry]]:
    """Read the byte order, and the tags of the first image as stored.

    Raises:
        ValueError: the tags are damaged.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    is_big = head[2:4] in (b"+\0", b"\0+")
    length, count_form, entry_form, inline = (20, "Q", "HHQ8s", 8) if is_big else (12, "H", "HHI4s", 4)
    try:
        (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", head, 8 if is_big else 4)
        file.seek(start)
        (number,) = struct.unpack(f"{order}{count_form}", file.read(struct.calcsize(f"{order}{count_form}")))
        directory = file.read(min(number, MAX_ENTRIES) * length)
        entries = {}
        for tag, kind, count, value in struct.iter_unpack(f"{order}{entry_form}", directory):
            size = count * TYPE_BYTES.get(kind, 0)
            if size > inline and tag in COPIED:
                if size > MAX_TAG_BYTES:
                    raise ValueError(f"its tag {tag} has {size} bytes")
                (position,) = struct.unpack(f"{order}{'Q' if is_big else 'I'}", value)
                file.seek(position)
                value = file.read(size)
                if len(value) < size:
                    raise ValueError("it is truncated")
            entries[tag] = _Entry(kind, count, value[:size] if size <= inline else value)
    except (struct.error, OverflowError, OSError) as error:
        raise ValueError(f"its tags are damaged ({error})") from None
    return order, entries
