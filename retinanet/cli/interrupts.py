"""Handle Ctrl-C while a command starts, and SIGTERM while it works.

This module imports little, because Ctrl-C prints a traceback until its imports have finished.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_TERMINATED = 143  # 128 + SIGTERM, which shells and schedulers interpret as stopped on request

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


class Terminated(KeyboardInterrupt):
    """SIGTERM, in a command that handles it like Ctrl-C."""


def interrupts_exit() -> AbstractContextManager[None]:
    """Exit immediately on Ctrl-C, unless it is ignored or the caller handles it."""
    return _replacing(signal.SIGINT, signal.default_int_handler, _exit_interrupted)


def begin_work() -> None:
    """Make Ctrl-C raise `KeyboardInterrupt` from now on. A command calls this after its slow imports.

    Before that, Ctrl-C exits immediately, because an exception raised during an import may be swallowed or replaced by
    the module being imported.
    """
    if signal.getsignal(signal.SIGINT) is _exit_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def raising_terminated() -> AbstractContextManager[None]:
    """Make SIGTERM raise `Terminated`, unless it is ignored or the caller handles it."""
    return _replacing(signal.SIGTERM, signal.SIG_DFL, _raise_terminated)


@contextmanager
def _replacing(number: signal.Signals, default: Handler, handler: Handler) -> Iterator[None]:
    """Handle a signal differently, if its handler is the default one."""
    if signal.getsignal(number) is not default:
        yield
        return
    try:
        signal.signal(number, handler)
    except ValueError:  # only the main thread may set signal handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, default)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler often sends it twice
    raise Terminated


def _exit_interrupted(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)
