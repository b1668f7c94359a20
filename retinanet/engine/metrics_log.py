"""What a run tells: the console, a log file, `metrics.jsonl`, TensorBoard."""

import errno
import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from retinanet.data.loader import SampleReader
from retinanet.errors import InputError
from retinanet.formats.coco import CocoData
from retinanet.structures import Detections
from retinanet.visualization.draw import draw_detections

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
KEPT_MESSAGES = 1000
BOARD_IMAGES = 4  # validation images shown in TensorBoard


class MetricsLog:
    """Figures of a run, one JSON object a line, and the same in TensorBoard.

    Args:
        folder: of the run.
        resumed_at: the step a resumed run goes on from; later lines of the interrupted one are cut off.

    Raises:
        InputError: the disk is full already.
    """

    def __init__(self, folder: Path, *, resumed_at: int | None = None):
        self._path = folder / METRICS_FILE
        purge_step = None if resumed_at is None else resumed_at + 1
        try:
            if resumed_at is None:
                self._path.unlink(missing_ok=True)
            else:
                _cut_back(self._path, resumed_at)
            self._file = open(self._path, "ab", buffering=0)  # what the disk refuses must not wait in a buffer
            self._board: SummaryWriter | None = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to: {error.strerror}; make room on the disk") from None
        self._unwritten = b""  # lines that the disk had no room for

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """`kind` is "train" or "eval"; not-a-number is written as null, which JSON has.

        On a full disk a run goes on: its lines are kept until there is room, TensorBoard goes without what follows.
        """
        line = {"kind": kind, "step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self._unwritten += json.dumps(line).encode() + b"\n"
        self._write_lines()
        with self._board_or_none() as board:
            for name, value in values.items() if board else ():
                board.add_scalar(f"{kind}/{name}", value, step)

    def images(self, step: int, detections: dict[int, Detections], data: CocoData) -> None:
        """What was found on the first images of a data set, for TensorBoard alone."""
        images = SampleReader(data.records, [], seed=0, max_pixels=sys.maxsize)  # checked when they were detected on
        for index in range(min(BOARD_IMAGES, len(data.records))):
            drawn = draw_detections(images.read(index).image, detections[index], data.class_names)
            with self._board_or_none() as board:
                if board:
                    board.add_image(f"validation/{index}", drawn, step)

    def close(self) -> None:
        if self._unwritten:
            self._write_lines()
        self._file.close()
        with self._board_or_none() as board:
            if board:
                board.close()

    def _write_lines(self) -> None:
        """All or none of what waits: a line cut short would spoil the file."""
        whole = None
        try:
            whole = self._file.seek(0, os.SEEK_END)
            if self._file.write(self._unwritten) < len(self._unwritten):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(whole)
            count = self._unwritten.count(b"\n")
            log.warning("%s: CANNOT BE WRITTEN: %s. %d line(s) wait for room on the disk", self._path, error, count)
        else:
            self._unwritten = b""

    @contextmanager
    def _board_or_none(self) -> Iterator[SummaryWriter | None]:
        """TensorBoard, until the disk has refused something: its writer is then of no more use."""
        try:
            yield self._board
        except OSError as error:
            self._board = None
            log.warning("TensorBoard goes without what follows, %s has it: %s", self._path.name, error)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def _cut_back(path: Path, step: int) -> None:
    """Drop what was logged after a step, and its evaluation, which is done again; every line then stands once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # the line that a kill cut short
            continue
        if values["step"] < step or (values["step"] == step and values["kind"] == "train"):
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)
