"""Handle Ctrl-C while a command starts.

This module imports little, because Ctrl-C prints a traceback until its imports have finished.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130  # 128 + SIGINT


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


def _exit_interrupted(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)
