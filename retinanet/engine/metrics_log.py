"""Log the metrics of a run to `metrics.jsonl`, and read them back, without importing torch."""

import errno
import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from retinanet.errors import InputError

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Writes metrics to `metrics.jsonl`, one JSON object per line.

    Args:
        folder: the run folder.
        resumed_at: step of the checkpoint that the run resumes from; later lines are removed. None for a new run.

    Raises:
        InputError: the folder is not writable, or the disk is full.
    """

    def __init__(self, folder: Path, *, resumed_at: int | None = None):
        self._path = folder / METRICS_FILE
        try:
            if resumed_at is None:
                self._path.unlink(missing_ok=True)
            else:
                _cut_back(self._path, resumed_at)
            self._file = open(self._path, "ab", buffering=0)  # unbuffered: a full disk raises an error immediately
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to: {error.strerror}; free up disk space") from None
        self._unwritten = b""  # lines that did not fit on the disk

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Append one line. Non-finite values become null, because JSON has no NaN.

        If the disk is full, lines are kept in memory until there is space.

        Args:
            kind: "train" or "eval".
        """
        line = {"kind": kind, "step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self._unwritten += json.dumps(line).encode() + b"\n"
        self._write_lines()

    def close(self) -> None:
        """Try once more to write any pending lines, and close the file."""
        if self._unwritten:
            self._write_lines()
        self._file.close()

    def _write_lines(self) -> None:
        """Write either all pending lines or none: a partial line would corrupt the file."""
        end = None
        try:
            end = self._file.seek(0, os.SEEK_END)
            if self._file.write(self._unwritten) < len(self._unwritten):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            count = self._unwritten.count(b"\n")
            log.warning(
                "%s: cannot be written: %s; %d line(s) buffered until disk space is free", self._path, error, count
            )
        else:
            self._unwritten = b""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, in order; none if there is no such file.

    A line that was cut off when the process was killed is skipped.

    Raises:
        InputError: the file cannot be read.
    """
    path = folder / METRICS_FILE
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; restore the file") from None
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            values = json.loads(line)
            if isinstance(values, dict) and {"kind", "step"} <= values.keys():
                lines.append(values)
    return lines


def _cut_back(path: Path, step: int) -> None:
    """Remove all lines after `step`, and the evaluation at `step`, which the resumed run repeats."""
    if not path.exists():
        return
    kept = [
        json.dumps(line) + "\n"
        for line in read_metrics(path.parent)
        if line["step"] < step or (line["step"] == step and line["kind"] == "train")
    ]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)
