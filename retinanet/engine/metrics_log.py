"""Log the metrics of a run to `metrics.jsonl` and TensorBoard."""

import errno
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from retinanet.data.reader import SampleReader
from retinanet.errors import InputError
from retinanet.structures import Detections
from retinanet.visualization.draw import draw_detections

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
BOARD_IMAGES = 4  # validation images shown in TensorBoard


class MetricsLog:
    """Writes metrics to `metrics.jsonl`, one JSON object per line, and to TensorBoard.

    Args:
        folder: the run folder.
        resumed_at: step of the checkpoint that the run resumes from; later lines are removed. None for a new run.

    Raises:
        InputError: the folder is not writable, or the disk is full.
    """

    def __init__(self, folder: Path, *, resumed_at: int | None = None):
        self._path = folder / METRICS_FILE
        purge_step = None if resumed_at is None else resumed_at + 1
        try:
            if resumed_at is None:
                self._path.unlink(missing_ok=True)
            else:
                _cut_back(self._path, resumed_at)
            self._file = open(self._path, "ab", buffering=0)  # unbuffered: a full disk raises an error immediately
            self._board: SummaryWriter | None = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to: {error.strerror}; free up disk space") from None
        self._unwritten = b""  # lines that did not fit on the disk

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Append one line. Non-finite values become null, because JSON has no NaN.

        If the disk is full, lines are kept in memory until there is space, and TensorBoard logging stops for good.

        Args:
            kind: "train" or "eval".
        """
        line = {"kind": kind, "step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self._unwritten += json.dumps(line).encode() + b"\n"
        self._write_lines()
        with self._board_or_none() as board:
            for name, value in values.items() if board else ():
                board.add_scalar(f"{kind}/{name}", value, step)

    def images(self, step: int, detections: dict[int, Detections], reader: SampleReader) -> None:
        """Draw the detections on the first images of the reader's dataset, and show them in TensorBoard."""
        for index in range(min(BOARD_IMAGES, len(reader.dataset))):
            drawn = draw_detections(reader.read(index).image, detections[index], reader.dataset.class_names)
            with self._board_or_none() as board:
                if board:
                    board.add_image(f"validation/{index}", drawn, step)

    def close(self) -> None:
        """Try once more to write any pending lines, and close the files."""
        if self._unwritten:
            self._write_lines()
        self._file.close()
        with self._board_or_none() as board:
            if board:
                board.close()

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

    @contextmanager
    def _board_or_none(self) -> Iterator[SummaryWriter | None]:
        """Yield the TensorBoard writer, or None after a disk error, from which the writer cannot recover."""
        try:
            yield self._board
        except OSError as error:
            self._board = None
            log.warning("TensorBoard logging stopped: %s; metrics continue in %s", error, self._path.name)


def _cut_back(path: Path, step: int) -> None:
    """Remove all lines after `step`, and the evaluation at `step`, which the resumed run repeats."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # a line cut off when the process was killed
            continue
        if values["step"] < step or (values["step"] == step and values["kind"] == "train"):
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)
