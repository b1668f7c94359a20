"""Open and parse JSON files, and explain why other files cannot be read."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from retinanet.errors import InputError

# JSON compresses up to about 30 times. A higher ratio suggests a decompression bomb: deflate reaches 1000 times.
MAX_GZIP_RATIO = 64
GZIP_ALLOWANCE = 1 << 24  # bytes that are accepted regardless of the ratio

# First bytes of files that are often given instead of JSON, with a description and advice.
_GZIP = b"\x1f\x8b"
_OTHER_FILES = (
    (b"PK\x03\x04", "a zip archive; extract it, and set the path to the extracted file or folder"),
    (b"BZh", "compressed by bzip2; decompress it"),
    (b"\xfd7zXZ", "compressed by xz; decompress it"),
    (b"(\xb5/\xfd", "compressed by zstd; decompress it"),
    (b"7z\xbc\xaf", "a 7z archive; extract it, and set the path to the extracted file or folder"),
    (b"Rar!", "a rar archive; extract it, and set the path to the extracted file or folder"),
    (b"\x89PNG", "a PNG image; set data.*.annotations to the annotations, and data.*.images to the images"),
    (b"\xff\xd8\xff", "a JPEG image; set data.*.annotations to the annotations, and data.*.images to the images"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<!DOCTYPE html", "a web page; the download failed"),
    (b"<html", "a web page; the download failed"),
    (b"<", "XML, expected JSON; for a dataset in Pascal VOC format, set the path to its folder"),
)


@contextmanager
def open_json(file: str) -> Iterator[BinaryIO]:
    """Open a JSON file for reading in pieces, and decompress gzip.

    Raises:
        InputError: the file cannot be read, is an archive, or decompresses to far more than JSON would. Also raised
            when reading from the result.
    """
    try:
        with open(file, "rb") as raw:
            start = raw.read(512)
            raw.seek(0)
            if start.startswith(_GZIP):
                with gzip.open(raw) as content, io.BufferedReader(_Limited(content, file)) as limited:
                    yield limited
                return
            _check_start(file, start)
            yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{file}: is damaged or incomplete gzip ({error}); download it again") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; set data.*.annotations to a COCO file") from None


def load_json(file: str) -> Any:
    """Parse a JSON file in UTF-8 (with or without a byte order mark), UTF-16 or UTF-32 into dicts and lists.

    Raises:
        InputError: the file cannot be read, or is not JSON; the message gives the reason.
    """
    with open_json(file) as stream:
        data = stream.read()
    if not data.strip():
        raise InputError(f"{file}: is empty, expected JSON; download or export it again")
    _check_start(file, data[:512])  # of the decompressed content
    try:
        text = data.decode(json.detect_encoding(data), "strict").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: is not UTF-8 text (byte {data[error.start]:#04x} at position {error.start}); save it as UTF-8"
        ) from None
    del data
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: is not JSON: {_reason(text, error)}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON: {error}; export the annotations again") from None


class _Limited(io.RawIOBase):
    """Decompressed content that raises an error when it becomes far larger than its file."""

    def __init__(self, content: gzip.GzipFile, file: str):
        self.content, self.file = content, file
        self.left = GZIP_ALLOWANCE + MAX_GZIP_RATIO * os.path.getsize(file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.content.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise InputError(
                f"{self.file}: decompresses to more than {MAX_GZIP_RATIO} times its size, which is "
                "implausible for annotations; if you trust the file, decompress it first"
            )
        return count


def _check_start(file: str, start: bytes) -> None:
    for signature, what in _OTHER_FILES:
        if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(signature):
            raise InputError(f"{file}: is {what}")
    if start[257:262] == b"ustar":
        raise InputError(f"{file}: is a tar archive; extract it, and set the path to the extracted file or folder")


def _reason(text: str, error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data" and text[: error.pos].count("\n") <= 1 and text[error.pos] in "{[":
        return (
            "it has several JSON documents, one per line (JSON Lines); expected a single one, such as a COCO file; "
            "export the annotations as COCO"
        )
    is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    if is_cut:
        return f"it is incomplete, and ends after {len(text)} characters; download or export it again"
    found = text[error.pos : error.pos + 20].partition("\n")[0]
    return f"line {error.lineno}, column {error.colno} has {found!r}: {error.msg}; correct it or export it again"
