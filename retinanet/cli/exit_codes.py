"""Exit codes of the commands."""

import sys
from collections.abc import Callable

from retinanet.errors import InputError


def exit_code(run: Callable[[], object]) -> int:
    """Run a command and return its exit code: 0 or the integer that it returns, 2 for invalid input, 130 for Ctrl-C."""
    try:
        code = run()
        return code if isinstance(code, int) else 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
