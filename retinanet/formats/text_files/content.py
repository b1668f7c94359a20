"""Read text files of limited size in UTF-8 or UTF-16."""

import codecs
import errno
from pathlib import Path


def read_limited(file: Path, *, max_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        OSError: the file cannot be read, or has more than `max_bytes` bytes.
    """
    with open(file, "rb") as opened:
        content = opened.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes", str(file))
    return content


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text file: UTF-16 if it starts with a UTF-16 byte order mark, otherwise UTF-8.

    Decoding with it removes the byte order mark.
    """
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
