"""What a user's mistake is, and how a tool ends on one."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """A mistake in what the user gave: tools print the message alone and exit with 2."""


def first_line(error: BaseException) -> str:
    """Of what an error says, to be part of a message of one line; its type where it says nothing."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def make_folder(folder: Path) -> None:
    """Make an output folder, before the work whose results it is for.

    Raises:
        InputError: it cannot be made, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror}; name another folder") from None


def exit_code(run: Callable[[], object]) -> int:
    """Run a tool: 0 or the number it returns when it went through, 2 with the message alone for a mistake in its
    input, 130 for Ctrl-C."""
    try:
        code = run()
        return code if isinstance(code, int) else 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
