"""What a user's mistake is, and how a tool ends on one."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A mistake in what the user gave: tools print the message alone and exit with 2."""


def exit_code(run: Callable[[], object]) -> int:
    """Run a tool: 0 when it went through, 2 with the message alone for a mistake in its input, 130 for Ctrl-C."""
    try:
        run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
