"""What a person sees while something runs: messages above a progress bar. A console that is gone ends nothing."""

import contextlib
import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

from retinanet.runtime.distributed import is_main


class _Forgiving:
    """A stream that drops what it cannot write, as on a full disk, or into a pipe whose reader has ended."""

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

    # tqdm asks whether a bar and a message go to the same terminal.
    def __eq__(self, other: object) -> bool:
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return hash(self._stream)


class ConsoleHandler(logging.Handler):
    """Prints above a progress bar, not through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=_Forgiving(sys.stdout))


def progress(items: Iterable, what: str, total: int | None, *, initial: int = 0) -> tqdm:
    """A bar with the time left; on a file or a pipe a line now and then. One for all processes."""
    return tqdm(
        items,
        desc=what,
        total=total,
        initial=initial,
        file=_Forgiving(sys.stderr),
        mininterval=0.2 if sys.stderr.isatty() else 15.0,
        dynamic_ncols=True,
        leave=False,
        disable=not is_main(),
    )
