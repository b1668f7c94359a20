"""What all commands do as processes: exit codes, Ctrl-C, and closed output pipes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import FrameType
from typing import Any, TextIO

from retinanet.errors import InputError
from retinanet.runtime.console import escape_unprintable

EXIT_INVALID_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT


def exit_code(run: Callable[[], object]) -> int:
    """Run a command and return its exit code: 2 for invalid input, 130 for Ctrl-C, else its integer result or 0.

    If the reader of its output goes away, as in `retinanet eval ... | head`, the command continues without it.
    """
    escape_unprintable()
    with output_to_closed_pipes(), _interrupts_exit():
        try:
            code = run()
            return code if isinstance(code, int) else 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_INVALID_INPUT
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED


def begin_work() -> None:
    """From here on, Ctrl-C raises `KeyboardInterrupt`. A command calls this after its slow imports.

    Before that, Ctrl-C ends the process at once: an exception would be raised inside a module that is being imported,
    which may swallow or replace it.
    """
    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _interrupts_exit() -> Iterator[None]:
    """Exit at once on Ctrl-C, unless it is ignored or the caller handles it."""
    is_main_thread = threading.current_thread() is threading.main_thread()  # the only one that may set handlers
    if not is_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _exit_interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_interrupted(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)


@contextmanager
def output_to_closed_pipes() -> Iterator[None]:
    """Discard output to a pipe whose reader has gone away, instead of raising an error."""
    out, errors = _PipeOutput(sys.stdout), _PipeOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            yield
        finally:
            out.flush()
            errors.flush()


class _PipeOutput:
    """Output stream that leads nowhere once its pipe is closed."""

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
            # The interpreter flushes what is still buffered when it exits, which would fail again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._target.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
