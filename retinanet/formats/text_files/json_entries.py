"""Read lists in a JSON object entry by entry, for files that are too large to parse at once."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from retinanet.errors import InputError
from retinanet.formats.text_files.json_file import open_json

PIECE = 1 << 20  # characters read at once
MAX_ENTRY = 1 << 23  # characters per entry; parsing a hostile one takes up to 45 bytes per character

DELIMITERS = tuple(" \t\r\n,:]}")

_DECODER = json.JSONDecoder()


class Entry(NamedTuple):
    """An entry of a list or, with position None, an empty list or another value."""

    key: str
    position: int | None
    value: Any


def entries(file: str) -> Iterator[Entry]:
    """Yield the entries of all lists in the file's top-level object, in file order.

    Raises:
        InputError: the file cannot be read, is not a JSON object, or has an entry that is too long.
    """
    with open_json(file) as stream:
        encoding = json.detect_encoding(stream.read(4))
        stream.seek(0)
        text = _Text(codecs.getreader(encoding)(stream), file)
        text.skip("\ufeff")
        text.take("{")
        separator = text.take("}") if text.peek() == "}" else ","
        while separator == ",":
            key = text.value("a key")
            text.take(":")
            if text.peek() != "[":
                yield Entry(key, None, text.value(f"the value of {key!r}"))
            else:
                yield from _list(text, key)
            separator = text.take(",", "}")
        if text.peek():
            raise InputError(f"{file}: is not JSON: it continues after the end of its object; export it again")


def _list(text: "_Text", key: str) -> Iterator[Entry]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        yield Entry(key, None, [])
        return
    separator, position = ",", 0
    while separator == ",":
        yield Entry(key, position, text.value(f"{key}[{position}]"))
        position += 1
        separator = text.take(",", "]")


class _Text:
    """The part of a text that is in memory, and the current position."""

    def __init__(self, stream: codecs.StreamReader, file: str):
        self._stream, self._file, self._text, self._position = stream, file, "", 0

    def skip(self, character: str) -> None:
        """Move past a character if it is next."""
        if self.peek() == character:
            self._position += 1

    def peek(self) -> str:
        """Move to the next non-blank character and return it; empty at the end."""
        while True:
            while self._position < len(self._text):
                character = self._text[self._position]
                if character not in " \t\r\n":
                    return character
                self._position += 1
            if not self._fill():
                return ""

    def take(self, *expected: str) -> str:
        """Move past the next character, which must be one of `expected`."""
        found = self.peek()
        if found not in expected:
            self._fail(f"found {found!r}, expected {' or '.join(map(repr, expected))}" if found else "it is incomplete")
        self._position += 1
        return found

    def value(self, name: str) -> Any:
        """Parse the next value; messages call it `name`."""
        self.peek()
        while True:
            value = None
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except RecursionError:
                self._fail(f"{name} is nested too deeply")
            except ValueError:  # damaged, or incomplete in this piece
                end = len(self._text)
            # A number at the end of the piece may continue in the next one, even after a decimal point.
            if self._text[end : end + 1] in DELIMITERS:
                self._position = end
                return value
            if len(self._text) - self._position > MAX_ENTRY:
                self._fail(f"{name} has more than {MAX_ENTRY} characters, or is damaged")
            if not self._fill():
                self._fail(f"{name} is damaged or incomplete")

    def _fill(self) -> bool:
        """Read the next piece and drop the text before the position; return False at the end of the file."""
        try:
            more = self._stream.read(PIECE)
        except UnicodeError:
            raise InputError(f"{self._file}: is not UTF-8 text; save it as UTF-8") from None
        self._text, self._position = self._text[self._position :] + more, 0
        return bool(more)

    def _fail(self, reason: str) -> NoReturn:
        raise InputError(f"{self._file}: is not JSON: {reason}; correct it or export the annotations again")
