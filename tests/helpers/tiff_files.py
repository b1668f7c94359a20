"""TIFF files with any layout, built byte by byte."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def tiff_of(
    values,
    *,
    order="<",
    planar=False,
    deflate=False,
    predictor=1,
    tile=None,
    rows=None,
    photometric=1,
    tags=(),
    compress=None,
):
    """A TIFF of an array (H, W, B) of any type.

    Args:
        planar: store the bands one after the other.
        tile: height and width of tiles; None for strips.
        rows: rows in a strip; None for all.
        tags: tags to add or replace as (tag, type, values); the type is 2 or 7 (bytes), 3 (short) or 4 (long).
        compress: returns the bytes of a strip or tile (H, W, B), see `by_libtiff`; its tag 259 is to be in `tags`.
    """
    height, width, bands = values.shape
    planes = [values[..., band : band + 1] for band in range(bands)] if planar else [values]
    block = tile or (rows or height, width)
    parts = [
        _padded(plane[top : top + block[0], left : left + block[1]], block if tile else None)
        for plane in planes
        for top in range(0, height, block[0])
        for left in range(0, width, block[1])
    ]
    blocks = [compress(part) if compress else _encoded(part, order, predictor) for part in parts]
    if deflate:
        blocks = [zlib.compress(data) for data in blocks]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = 8 * values.dtype.itemsize
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * bands),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        277: (3, [bands]),
        284: (3, [2 if planar else 1]),
        317: (3, [predictor]),
        339: (3, [kind] * bands),
        (324 if tile else 273): (4, [0] * len(blocks)),
        (325 if tile else 279): (4, [len(data) for data in blocks]),
    }
    entries |= {322: (4, [tile[1]]), 323: (4, [tile[0]])} if tile else {278: (4, [block[0]])}
    given = {number: (form, content) for number, form, content in tags}
    entries |= given
    start = 8 + 2 + 12 * len(entries) + 4
    sizes = {3: "H", 4: "I", 2: "s", 7: "s"}
    extra_size = sum(len(_packed(order, *entry)) for entry in entries.values() if len(_packed(order, *entry)) > 4)
    position = start + extra_size
    offsets = []
    for data in blocks:
        offsets.append(position)
        position += len(data)
    entries |= {324 if tile else 273: (4, offsets)} | given
    directory, extra = b"", b""
    for number, (form, content) in sorted(entries.items()):
        data = _packed(order, form, content)
        count = len(data) // struct.calcsize(sizes[form])
        directory += struct.pack(f"{order}HHI", number, form, count)
        if len(data) > 4:
            directory += struct.pack(f"{order}I", start + len(extra))
            extra += data
        else:
            directory += data.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return head + directory + bytes(4) + extra + b"".join(blocks)


def tiff_of_one_tile(tile, side):
    """A square image (side, side, 3) that repeats a tile (H, W, 3), which the small file contains once."""
    height, width, _ = tile.shape
    block = zlib.compress(tile.tobytes(), 1)
    count = -(-side // height) * -(-side // width)

    def at(position):
        tags = [(256, 4, [side]), (257, 4, [side]), (259, 3, [8])]
        tags += [(324, 4, [position] * count), (325, 4, [len(block)] * count)]
        return tiff_of(tile, tile=(height, width), photometric=2, compress=lambda part: block, tags=tags)

    return at(len(at(0)) - len(block))


def by_libtiff(compression, predictor=1):
    """A function that compresses a strip or tile of 8-bit samples, grey or RGB, and the tags that this needs."""

    def saved(part):
        file = io.BytesIO()
        image = Image.fromarray(part[..., 0] if part.shape[2] == 1 else part)
        image.save(file, "TIFF", compression=compression, tiffinfo={278: len(part), 317: predictor})
        return file, Image.open(file)

    def compress(part):
        file, image = saved(part)
        (start,), (length,) = image.tag_v2[273], image.tag_v2[279]
        return file.getvalue()[start : start + length]

    _, example = saved(np.zeros((16, 16, 3), np.uint8))
    tags = [(259, 3, [example.tag_v2[259]]), (317, 3, [predictor])]
    if tables := example.tag_v2.get(347):
        tags += [(347, 7, tables), (262, 3, [example.tag_v2[262]])]
    return compress, tags


def _packed(order, form, content):
    return content if form in (2, 7) else struct.pack(f"{order}{len(content)}{'H' if form == 3 else 'I'}", *content)


def _padded(part, block):
    """Pad a tile to its full number of rows and columns."""
    if block is None:
        return part
    return np.pad(part, [(0, block[0] - part.shape[0]), (0, block[1] - part.shape[1]), (0, 0)], mode="edge")


def _encoded(part, order, predictor):
    height, width, bands = part.shape
    if predictor == 3:  # TIFF Technical Note 3: bytes by significance, then differences of bytes
        planes = part.astype(part.dtype.newbyteorder(">")).reshape(height, width * bands, 1).view(np.uint8)
        by_significance = planes.transpose(0, 2, 1).reshape(height, -1, bands)
        return np.diff(by_significance, axis=1, prepend=np.uint8(0)).tobytes()
    if predictor == 2:
        unsigned = part.view(f"u{part.dtype.itemsize}")
        part = np.diff(unsigned, axis=1, prepend=unsigned.dtype.type(0))
    return part.astype(part.dtype.newbyteorder(order)).tobytes()
