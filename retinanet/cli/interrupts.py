"""Ctrl-C while a command starts. Imports little: until these imports have finished, Python prints a traceback."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130  # 128 + SIGINT


@contextmanager
def interrupts_exit() -> Iterator[None]:
    """Exit at once on Ctrl-C, unless it is ignored or the caller handles it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, _exit_interrupted)
    except ValueError:  # not in the main thread, the only one that may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def begin_work() -> None:
    """From here on, Ctrl-C raises `KeyboardInterrupt`. A command calls this after its slow imports.

    Before that, Ctrl-C ends the process at once: an exception would be raised inside a module that is being imported,
    which may swallow or replace it.
    """
    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_interrupted(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)
