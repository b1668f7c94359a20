"""Read the parts of a large COCO file entry by entry, in bounded memory."""

from collections.abc import Iterator
from typing import Any

from retinanet.errors import InputError
from retinanet.formats.text_files.json_entries import Entry, entries
from retinanet.formats.text_files.json_file import open_json

# A hostile file that is parsed at once takes up to 45 bytes of memory per byte, plus up to 4 for the text itself.
MAX_WHOLE = 1 << 24  # bytes
# With more entries, the data kept per entry would exceed 1 GiB. Correct files are read without these limits.
MAX_ENTRIES = {"images": 1_000_000, "annotations": 3_000_000, "categories": 100_000}
MAX_OTHER_ENTRIES = 10_000_000  # in other lists, which are skipped
MAX_NAMES = 1 << 26  # characters in all image ids and names


def is_large(file: str) -> bool:
    """Return whether a JSON file, after decompression, is too large to be parsed at once.

    Raises:
        InputError: the file cannot be read.
    """
    with open_json(file) as stream:
        size = 0
        while size <= MAX_WHOLE and (piece := stream.read(1 << 20)):
            size += len(piece)
    return size > MAX_WHOLE


def outline(file: str) -> dict[str, Any]:
    """Return the content of a file with only the first entry of each list.

    Raises:
        InputError: as in `entries`, or a list has too many entries.
    """
    result: dict[str, Any] = {}
    for key, position, value in _limited_entries(file):
        if position is None:
            result[key] = value
        elif position == 0:
            result[key] = [value]
    return result


class LargePart:
    """One list of a large file. Each iteration reads the file again."""

    def __init__(self, file: str, part: str):
        self._file, self._part = file, part

    def __iter__(self) -> Iterator[Any]:
        return (entry.value for entry in _limited_entries(self._file) if self._is_in_list(entry))

    def _is_in_list(self, entry: Entry) -> bool:
        return entry.key == self._part and entry.position is not None


def _limited_entries(file: str) -> Iterator[Entry]:
    for entry in entries(file):
        if entry.position is not None and entry.position >= MAX_ENTRIES.get(entry.key, MAX_OTHER_ENTRIES):
            raise InputError(
                f"{file}: differs from the COCO format and has more than {entry.position} {entry.key}; a file of this "
                "size can be read only if all its entries have exactly the fields and types of the format; read a part "
                "of the file to find the difference, and correct it"
            )
        yield entry
