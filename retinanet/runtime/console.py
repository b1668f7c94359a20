"""Console output: messages above a progress bar. Failing to write to the console does not end the run."""

import contextlib
import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

from retinanet.runtime.distributed import is_main


class _LossyStream:
    """Stream wrapper that discards output it cannot write, for example to a full disk or a closed pipe."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    # tqdm compares the stream of a message with that of each bar to see whether they share a terminal.
    def __eq__(self, other: object) -> bool:
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return hash(self._stream)


class ConsoleHandler(logging.Handler):
    """Logging handler that prints above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=_LossyStream(sys.stdout))


def progress(items: Iterable | None, what: str, total: int | None, *, initial: int = 0) -> tqdm:
    """Progress bar with the remaining time, on the main process only; files and pipes get an occasional line."""
    return tqdm(
        items,
        desc=what,
        total=total,
        initial=initial,
        file=_LossyStream(sys.stderr),
        mininterval=0.2 if sys.stderr.isatty() else 15.0,
        dynamic_ncols=True,
        leave=False,
        disable=not is_main(),
    )
