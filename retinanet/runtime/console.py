"""Console output: messages, and progress as a bar on a terminal or as plain lines in a file.

Failing to write to the console does not stop a run, whether the disk is full, the reader of a pipe has exited, or the
console's encoding lacks a character.
"""

import contextlib
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TextIO

from tqdm import tqdm

# C0 and C1 except tab and line break; marks, embeddings, overrides and isolates of the bidirectional algorithm.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

PLAIN_INTERVAL = 30.0  # seconds between progress lines in a file or pipe


class _LossyStream:
    """Stream wrapper that discards output it cannot write, and escapes characters that the encoding lacks."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

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
        stream = _LossyStream(sys.stdout)
        tqdm.write(self.format(record), file=stream)
        stream.flush()  # otherwise, a file would get its lines late, and out of order with those from stderr


class ProgressBar(tqdm):
    """Progress bar with the remaining time, for a terminal."""

    def logged(self, summary: str) -> None:
        """Show next to the bar a summary of the values that the caller has just logged."""
        self.set_postfix_str(summary)


class PlainProgress:
    """Progress for a file or a pipe: a line with the remaining time every `PLAIN_INTERVAL` seconds.

    Args:
        what: the activity, such as "evaluating".
        total: number of items, if known.
        initial: number of items done before a run was resumed.
        unit: name of the items, if the lines are to have their number per second.
    """

    def __init__(
        self, items: Iterable | None, what: str, total: int | None, *, initial: int = 0, unit: str | None = None
    ):
        self._items = items
        self._unit = unit
        self._what = what
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._initial = self._done = initial
        self._postfix = ""
        self._start = self._last_line = time.monotonic()

    def __iter__(self) -> Iterator:
        for item in self._items or ():
            yield item
            self.update()

    def update(self) -> None:
        """Count an item as done."""
        self._done += 1
        now = time.monotonic()
        if now - self._last_line >= PLAIN_INTERVAL:
            self._last_line = now
            stream = _LossyStream(sys.stderr)
            stream.write(f"{self._what}: {self._position(now)}{self._postfix}\n")
            stream.flush()

    def set_postfix_str(self, text: str) -> None:
        """Text to add to the next lines."""
        self._postfix = f", {text}" if text else ""

    def logged(self, summary: str) -> None:
        """Skip the next line if it is due soon, because the caller has just logged its progress."""
        self._last_line = time.monotonic()

    def close(self) -> None:
        """Do nothing: there is no bar to remove."""

    def _position(self, now: float) -> str:
        if not self._total or self._done > self._total:  # the header of a video may give too few frames
            return f"{self._done} done"
        seconds_per_item = (now - self._start) / (self._done - self._initial)
        left = (self._total - self._done) * seconds_per_item
        speed = f", {1 / seconds_per_item:.2g} {self._unit}/s" if self._unit else ""
        return f"{self._done} of {self._total} ({self._done / self._total:.0%}){speed}, {format_duration(left)} left"


def progress(
    items: Iterable | None,
    what: str,
    total: int | None,
    *,
    initial: int = 0,
    silent: bool = False,
    delay: float = 0.0,
    unit: str | None = None,
) -> ProgressBar | PlainProgress:
    """Report progress on stderr: as a bar on a terminal, otherwise as an occasional line.

    Args:
        items: what to iterate over; None if the caller calls `update`.
        what, total, initial, unit: see `PlainProgress`.
        silent: report nothing, because another process reports the same progress.
        delay: seconds until the bar appears.
    """
    if not (silent or is_terminal(sys.stderr)):
        return PlainProgress(items, what, total, initial=initial, unit=unit)
    return ProgressBar(
        items,
        desc=what,
        total=total,
        initial=initial,
        file=_LossyStream(sys.stderr),
        mininterval=0.2,
        dynamic_ncols=True,
        leave=False,
        disable=silent,
        delay=delay,
        unit=f" {unit}" if unit else "it",
    )


@contextlib.contextmanager
def counted_progress(what: str, *, delay: float = 2.0) -> Iterator[Callable[[int, int], None]]:
    """Report progress of work that counts its parts; see `progress`.

    Args:
        delay: seconds until a bar appears, so that quick work shows none.

    Yields: a function to call after each part with the number of finished parts and the total.
    """
    bars: list[ProgressBar | PlainProgress] = []

    def finished(done: int, total: int) -> None:
        if bars:
            bars[0].update()
        else:  # the time that the first part took is not known
            bars.append(progress(None, what, total, initial=done, delay=delay))

    try:
        yield finished
    finally:
        for bar in bars:
            bar.close()


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def escape_unprintable() -> None:
    """Make `print` escape characters that the console cannot encode, for example in class names, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def escape_controls(text: str) -> str:
    """Make control characters visible, such as those that clear a terminal or reverse the direction of text.

    File and class names may contain them. Line breaks and tabs are kept.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun; the plural is the one given, or ends in s."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def format_duration(seconds: float) -> str:
    """Format a duration with its one or two largest units: 0.25 s, 12 s, 3 min 20 s, 2 h 5 min, 4 days 7 h."""
    for unit, size, smaller, part in (("day", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            whole, rest = divmod(round(seconds / part), size // part)
            plural = "s" if unit == "day" and whole > 1 else ""
            return f"{whole} {unit}{plural}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def format_bytes(size: float) -> str:
    """Format a size in decimal units, as for disks and in file managers: 850 kB, 78 MB, 1.2 GB."""
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 1000 or unit == "TB":
            return f"{size:.2g} {unit}" if size < 10 else f"{size:.0f} {unit}"
    raise AssertionError(size)
