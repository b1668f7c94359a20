"""The error for invalid user input, and checks shared by several packages."""

import tempfile
from pathlib import Path


class InputError(ValueError):
    """Invalid user input. The command line prints only the message and exits with code 2."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the error's type if the message is empty."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def make_folder(folder: Path) -> None:
    """Create an output folder and check that it is writable.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror}; choose another folder") from None
