"""Exit codes of the command-line tools."""

import sys
from collections.abc import Callable

from retinanet.errors import InputError
from retinanet.runtime.console import escape_unprintable


def exit_code(run: Callable[[], object]) -> int:
    """Run a command and return its exit code: 2 for invalid input, 130 for Ctrl-C, else its integer result or 0."""
    escape_unprintable()
    try:
        code = run()
        return code if isinstance(code, int) else 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
