"""Logging of a process: to the console, and to a log file once one is opened."""

import logging
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from retinanet.runtime.console import ConsoleHandler

KEPT_MESSAGES = 1000


class _QuietFileHandler(logging.FileHandler):
    """File handler that ignores errors: if the disk is full, messages still reach the console, and saving warns."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def start_logging(*, silent: bool = False) -> None:
    """Send messages to the console, and buffer them for `log_to_file`. Replaces the handlers of any earlier call.

    Args:
        silent: log only errors, because another process logs the same messages.
    """
    root = logging.getLogger("retinanet")
    root.setLevel(logging.ERROR if silent else logging.INFO)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = ConsoleHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
    root.addHandler(MemoryHandler(KEPT_MESSAGES, flushLevel=logging.CRITICAL + 1))


def log_to_file(file: Path) -> None:
    """Also append messages to a file, including those buffered since `start_logging`."""
    to_file = _QuietFileHandler(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("retinanet")
    for handler in [handler for handler in root.handlers if isinstance(handler, MemoryHandler)]:
        handler.setTarget(to_file)
        handler.close()  # writes the buffered messages to the file
        root.removeHandler(handler)
    root.addHandler(to_file)
