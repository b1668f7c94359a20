"""Interpret single values of COCO files, which tools also write as floats or texts."""

import math
import re
from collections.abc import Sequence
from typing import Any

MAX_NUMBER = 1e9  # pixels or square pixels; larger values are mistakes, and would overflow
_MAX_EXACT = 2**53  # larger floats are not exact
_MAX_SHOWN = 60  # characters of a value in a message
_WHOLE_TEXT = re.compile(r"\s*[+-]?[0-9]{1,15}(\.0{1,9})?\s*")


def whole_number(value: Any) -> int | None:
    """The integer that a value stands for, such as 2, 2.0 or "2"; None for other values."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and abs(value) < _MAX_EXACT and value == int(value):
        return int(value)
    if isinstance(value, str) and _WHOLE_TEXT.fullmatch(value):
        return int(float(value))
    return None


def text(value: Any) -> str | None:
    """The value if it is a text with visible characters that can be written to a file; None otherwise."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character, which JSON can express
        return None
    return value


def identifier(value: Any) -> int | str | None:
    """An id: a whole number, or a text, which stays one even if it is "2"; None for other values."""
    return text(value) if isinstance(value, str) else whole_number(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of a size that occurs in images."""
    # The comparison is false for NaN and, unlike math.isfinite, accepts integers of any size.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def is_box(value: Any) -> bool:
    """Whether a value is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def area(value: Any) -> float | None:
    """An area; NaN if there is none, and None for other values."""
    if value is None:
        return math.nan
    return float(value) if is_number(value) else None


def flag(value: Any) -> bool | None:
    """A flag, such as 1, true or "0"; absent means false. None for other values."""
    if value is None or isinstance(value, bool):
        return bool(value)
    return {0: False, 1: True}.get(whole_number(value))  # type: ignore[arg-type]


def shown(value: Any) -> str:
    """A value as messages show it."""
    try:
        result = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    result = result.encode("ascii", "backslashreplace").decode() if not result.isprintable() else result
    return result if len(result) <= _MAX_SHOWN else result[: _MAX_SHOWN - 3] + "..."


class Index:
    """Find entries by id; an id written in another form is found, too, unless several entries could be meant."""

    def __init__(self, ids: Sequence[int | str]):
        self._exact = {entry_id: index for index, entry_id in enumerate(ids)}
        self._by_text: dict[str, int | None] = {}
        for index, entry_id in enumerate(ids):
            key = _canonical(entry_id)
            self._by_text[key] = None if key in self._by_text else index

    def find(self, value: Any) -> tuple[int | None, bool]:
        """The index of the entry with this id, or None; and whether the id has exactly the form of the entry's."""
        entry_id = identifier(value)
        if entry_id is None:
            return None, False
        if entry_id in self._exact:
            return self._exact[entry_id], not isinstance(value, float)
        return self._by_text.get(_canonical(entry_id)), False


def _canonical(entry_id: int | str) -> str:
    number = whole_number(entry_id)
    return str(entry_id if number is None else number)
