"""Process behaviour shared by all commands: exit codes, and closed output pipes."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from retinanet.cli.interrupts import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, interrupts_exit
from retinanet.errors import InputError
from retinanet.runtime.console import escape_unprintable

EXIT_INVALID_INPUT = 2


def exit_code(run: Callable[[], object]) -> int:
    """Run a command and return its exit code: 2 for invalid input, 130 for Ctrl-C, otherwise its integer result or 0.

    It is 143 for SIGTERM in commands that raise `Terminated`.

    If the reader of its output exits, as in `retinanet eval ... | head`, the command continues without output.
    """
    escape_unprintable()
    with output_to_closed_pipes(), interrupts_exit():
        try:
            code = run()
            return code if isinstance(code, int) else 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_INVALID_INPUT
        except Terminated:
            print("terminated", file=sys.stderr)
            return EXIT_TERMINATED
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED


@contextmanager
def output_to_closed_pipes() -> Iterator[None]:
    """Discard output to a pipe whose reader has closed it, instead of raising an error."""
    out, errors = _PipeOutput(sys.stdout), _PipeOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            yield
        finally:
            out.flush()
            errors.flush()


class _PipeOutput:
    """Output stream that discards its output once its pipe is closed."""

    def __init__(self, target: TextIO):
        self._target = target

    def write(self, text: str) -> int:
        with self._without_pipe_errors():
            self._target.write(text)
        return len(text)

    def flush(self) -> None:
        with self._without_pipe_errors():
            self._target.flush()

    @contextmanager
    def _without_pipe_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # At exit, the interpreter flushes the remaining buffer, which would fail again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._target.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
