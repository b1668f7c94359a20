"""Log to the console, and to a log file once it is open."""

import logging
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from retinanet.runtime.console import ConsoleHandler

KEPT_MESSAGES = 1000


class _Buffer(MemoryHandler):
    """Buffer for messages logged before the log file is opened."""


class _QuietFileHandler(logging.FileHandler):
    """File handler that ignores errors: if the disk is full, messages still reach the console."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


OUR_HANDLERS = (ConsoleHandler, _Buffer, _QuietFileHandler)


def start_logging(*, silent: bool = False) -> None:
    """Send messages to the console, and buffer them for `log_to_file`.

    Replaces the handlers of any earlier call. Handlers and a level that the caller has set on the logger "retinanet"
    are preserved.

    Args:
        silent: log only errors, because another process logs the same messages.
    """
    logger = logging.getLogger("retinanet")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    for handler in [handler for handler in logger.handlers if isinstance(handler, OUR_HANDLERS)]:
        logger.removeHandler(handler)
        handler.close()
    console = ConsoleHandler(logging.ERROR if silent else logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(console)
    buffer = _Buffer(KEPT_MESSAGES, flushLevel=logging.CRITICAL + 1)
    buffer.setLevel(console.level)
    logger.addHandler(buffer)


def log_to_file(file: Path) -> None:
    """Also append messages to a file in UTF-8, including those buffered since `start_logging`."""
    # A file name may contain bytes that are not valid UTF-8.
    to_file = _QuietFileHandler(file, encoding="utf-8", errors="backslashreplace")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_file.setLevel(logging.INFO)
    logger = logging.getLogger("retinanet")
    for buffer in [handler for handler in logger.handlers if isinstance(handler, _Buffer)]:
        buffer.setTarget(to_file)
        buffer.close()  # writes the buffered messages to the file
        logger.removeHandler(buffer)
    logger.addHandler(to_file)
