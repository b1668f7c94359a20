"""Format values from files for messages."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60  # characters


def short(value: object) -> str:
    """Format a value on one line, shortened and without deeply nested content."""
    return _SHORT.repr(value)
