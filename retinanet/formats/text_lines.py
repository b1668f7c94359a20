"""Read small text files that list something, one entry per line."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from retinanet.errors import InputError

MAX_BYTES = 100_000_000


def read_lines(file: Path) -> list[str]:
    """Lines of a text file, without blanks at their ends; blank lines at the end of the file are left out.

    Raises:
        InputError: the file cannot be read, is too large or is not UTF-8.
    """
    try:
        with open(file, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{file}: has more than {MAX_BYTES} bytes")
        text = content.decode("utf-8-sig").rstrip()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; correct the path or restore the file") from None
    except ValueError as error:  # not UTF-8, or a path with a null character
        raise InputError(f"{file}: is not UTF-8 text: {error}; save it as UTF-8") from None
    return [line.strip() for line in text.replace("\r\n", "\n").split("\n")] if text else []


def read_names(file: Path) -> tuple[str, ...]:
    """Class names of a file such as classes.txt, by number.

    Raises:
        InputError: the file cannot be read, or a name is missing or repeated.
    """
    return checked_names(read_lines(file), file)


def checked_names(names: Sequence[str], file: Path) -> tuple[str, ...]:
    """Class names without blanks at their ends.

    Raises:
        InputError: there is none, or one is empty or repeated.
    """
    stripped = tuple(name.strip() for name in names)
    if not stripped or "" in stripped:
        found = f"class {stripped.index('')} has no name" if stripped else "has no class names"
        raise InputError(f"{file}: {found}; every class number needs a name")
    repeated = [name for name, count in Counter(stripped).items() if count > 1]
    if repeated:
        raise InputError(f"{file}: duplicate class names {repeated[:5]}; names must be unique")
    return stripped
