"""Messages of a process: to the console, and to a log file once there is one."""

import logging
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from retinanet.runtime.console import ConsoleHandler

KEPT_MESSAGES = 1000


class _QuietFileHandler(logging.FileHandler):
    """Says nothing of a full disk, line after line: the console has what it drops, and whoever saves warns of it."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def start_logging(*, silent: bool = False) -> None:
    """Messages go to the console, and are kept for `log_to_file`. A later call replaces an earlier one.

    Args:
        silent: all but errors are left to another process, which says the same.
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
    """Messages go to the end of a file too, those since `start_logging` first."""
    to_file = _QuietFileHandler(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("retinanet")
    for handler in [handler for handler in root.handlers if isinstance(handler, MemoryHandler)]:
        handler.setTarget(to_file)
        handler.close()  # hands them over
        root.removeHandler(handler)
    root.addHandler(to_file)
