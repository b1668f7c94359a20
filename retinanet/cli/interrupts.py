"""Handle Ctrl-C while a command starts, and SIGTERM while it works.

This module imports little, because Ctrl-C prints a traceback until its imports have finished.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_TERMINATED = 143  # 128 + SIGTERM, which shells and schedulers interpret as stopped on request


class Terminated(KeyboardInterrupt):
    """SIGTERM, in a command that handles it like Ctrl-C."""


@contextmanager
def interrupts_exit() -> Iterator[None]:
    """Exit immediately on Ctrl-C, unless it is ignored or the caller handles it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, _exit_interrupted)
    except ValueError:  # only the main thread may set signal handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def begin_work() -> None:
    """Make Ctrl-C raise `KeyboardInterrupt` from now on. A command calls this after its slow imports.

    Before that, Ctrl-C exits immediately, because an exception raised during an import may be swallowed or replaced by
    the module being imported.
    """
    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def raising_terminated() -> Iterator[None]:
    """Make SIGTERM raise `Terminated`, unless it is ignored or the caller handles it."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, _raise_terminated)
    except ValueError:  # only the main thread may set signal handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler often sends it twice
    raise Terminated


def _exit_interrupted(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)
