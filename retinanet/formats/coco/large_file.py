"""Read the parts of a large COCO file entry by entry, in bounded memory."""

from collections.abc import Iterator
from typing import Any

from retinanet.errors import InputError
from retinanet.formats.text_files.json_entries import entries
from retinanet.formats.text_files.json_file import open_json

# Parsed as a whole, a hostile file takes up to 45 bytes of memory for each of its own, and text up to 4 in addition.
MAX_WHOLE = 1 << 24  # bytes
# With more entries than these, what is kept of each would exceed 1 GiB. A correct file is read without this limit.
MAX_ENTRIES = {"images": 1_000_000, "annotations": 3_000_000, "categories": 100_000}


def is_large(file: str) -> bool:
    """Whether a JSON file, decompressed, is too large to be parsed as a whole.

    Raises:
        InputError: the file cannot be read.
    """
    with open_json(file) as stream:
        size = 0
        while size <= MAX_WHOLE and (piece := stream.read(1 << 20)):
            size += len(piece)
    return size > MAX_WHOLE


def outline(file: str) -> dict[str, Any]:
    """The content of a file, with only the first entry of each list.

    Raises:
        InputError: see `entries`.
    """
    result: dict[str, Any] = {}
    for key, position, value in entries(file):
        if position is None:
            result[key] = value
        elif position == 0:
            result[key] = [value]
    return result


class LargePart:
    """One list of a large file. Each iteration reads the file again.

    Raises:
        InputError: when iterated, see `entries`; or the list has too many entries.
    """

    def __init__(self, file: str, part: str):
        self._file, self._part = file, part

    def __iter__(self) -> Iterator[Any]:
        limit = MAX_ENTRIES[self._part]
        for key, position, value in entries(self._file):
            if key != self._part or position is None:
                continue
            if position >= limit:
                raise InputError(
                    f"{self._file}: differs from the COCO format, and has more than {limit} {self._part}; so large a "
                    "file can be read only if all its entries have exactly the fields and types of the format; split "
                    "the file to see what is wrong with it, and correct it"
                )
            yield value
