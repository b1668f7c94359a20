"""EXIF orientation: how stored pixels are flipped for display, and how to parse it."""

import struct
from contextlib import suppress

ORIENTATION_TAG = 0x0112
# Orientation -> dimensions of (3, H, W) to flip for display, after a transpose if the orientation is 5 or more.
FLIPS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}


def swaps_sides(orientation: int) -> bool:
    """Return whether height and width are swapped for display."""
    return orientation >= 5


def exif_orientation(exif: bytes) -> int:
    """Parse the orientation tag as torchcodec does, because torchcodec does not expose it.

    Agrees with torchcodec on 9000 random EXIF blocks in JPEG, PNG and WebP. Pillow differs on unusual tag
    types, and would also decode a whole PNG to look for more EXIF blocks.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    with suppress(struct.error):  # truncated
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for index in range(num_entries):
            tag, value = struct.unpack_from(f"{order}H6xH", tiff, start + 2 + 12 * index)
            if tag == ORIENTATION_TAG:
                return valid_orientation(value)
    return 1


def valid_orientation(value: object) -> int:
    """Return the value of an orientation tag, or 1 (as stored) if it is invalid."""
    return value if isinstance(value, int) and value in FLIPS else 1
