"""Read small text files with one entry per line."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.text_files.content import encoding_of, read_limited

MAX_BYTES = 100_000_000


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file without surrounding whitespace and without blank lines at the end.

    Raises:
        InputError: the file cannot be read, is too large, or is not UTF-8 or UTF-16.
    """
    try:
        content = read_limited(file, max_bytes=MAX_BYTES)
        text = content.decode(encoding_of(content)).rstrip()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; correct the path or restore the file") from None
    except ValueError as error:  # not UTF-8, or a path with a null character
        raise InputError(f"{file}: is not UTF-8 text: {error}; save it as UTF-8") from None
    return [line.strip() for line in text.replace("\r\n", "\n").split("\n")] if text else []


def read_names(file: Path) -> tuple[str, ...]:
    """Read class names, in order of their numbers, from a file such as classes.txt.

    Raises:
        InputError: the file cannot be read, or a name is missing or repeated.
    """
    return checked_names(read_lines(file), file)


def checked_names(names: Sequence[str], file: Path) -> tuple[str, ...]:
    """Strip and check class names.

    Raises:
        InputError: there are no names, or a name is empty or repeated.
    """
    stripped = tuple(name.strip() for name in names)
    if not stripped or "" in stripped:
        found = f"class {stripped.index('')} has no name" if stripped else "has no class names"
        raise InputError(f"{file}: {found}; every class number needs a name")
    repeated = [name for name, count in Counter(stripped).items() if count > 1]
    if repeated:
        raise InputError(f"{file}: duplicate class names {repeated[:5]}; names must be unique")
    return stripped
