"""Interpret single values of COCO files, which some tools write as floats or strings."""

import math
import re
from collections.abc import Sequence
from typing import Any

from retinanet.formats.numbers import is_number

_MAX_EXACT = 2**53  # larger floats are not exact
_WHOLE_TEXT = re.compile(r"\s*[+-]?[0-9]{1,15}(\.0{1,9})?\s*")


def whole_number(value: Any) -> int | None:
    """Convert a value such as 2, 2.0 or "2" to an integer; return None for other values."""
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
    """Return the value if it is a non-blank string that can be encoded as UTF-8; None otherwise."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # an unpaired surrogate, which JSON can contain
        return None
    return value


def identifier(value: Any) -> int | str | None:
    """Return an id: a whole number, or a string, which stays a string even if it is "2"; None for other values."""
    return text(value) if isinstance(value, str) else whole_number(value)


def is_box(value: Any) -> bool:
    """Return whether a value is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def area(value: Any) -> float | None:
    """Return an area, NaN if there is none, or None for invalid values."""
    if value is None:
        return math.nan
    return float(value) if is_number(value) else None


def flag(value: Any) -> bool | None:
    """Parse a flag such as 1, true or "0"; an absent value is false, and other values give None."""
    if value is None or isinstance(value, bool):
        return bool(value)
    return {0: False, 1: True}.get(whole_number(value))  # type: ignore[arg-type]


class Index:
    """Find entries by id, including ids written in another form unless several entries match."""

    def __init__(self, ids: Sequence[int | str]):
        self._exact = {entry_id: index for index, entry_id in enumerate(ids)}
        self._ids = ids
        self._by_text: dict[str, int | None] | None = None  # created on demand because it takes much memory

    def find(self, value: Any) -> tuple[int | None, bool]:
        """Return the index of the entry with this id, or None, and whether both are written in the same form."""
        entry_id = identifier(value)
        if entry_id is None:
            return None, False
        if entry_id in self._exact:
            return self._exact[entry_id], not isinstance(value, float)
        if self._by_text is None:
            self._by_text = {}
            for index, known in enumerate(self._ids):
                key = _canonical(known)
                self._by_text[key] = None if key in self._by_text else index
        return self._by_text.get(_canonical(entry_id)), False


def _canonical(entry_id: int | str) -> str:
    number = whole_number(entry_id)
    return str(entry_id if number is None else number)
