"""Numbers in annotation files: recognise, parse and write them."""

import math
from typing import Any

MAX_NUMBER = 1e9  # pixels or square pixels; larger values are mistakes, and would overflow


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number of plausible size for image data."""
    # The comparison is false for NaN and, unlike math.isfinite, accepts integers of any size.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def to_number(text: str) -> float | None:
    """Parse a finite number of plausible size for image data; return None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    # float() also accepts 1_000, infinity and NaN.
    return value if math.isfinite(value) and abs(value) < MAX_NUMBER and "_" not in text else None


def exact_text(value: float) -> str:
    """Return the shortest text that parses to the same number, without a decimal point if it is whole."""
    return str(int(value)) if value.is_integer() else repr(value)
