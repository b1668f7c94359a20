"""What a run tells: the console, a log file, `metrics.jsonl`, TensorBoard."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

METRICS_FILE = "metrics.jsonl"


class _ConsoleHandler(logging.Handler):
    """Prints above a progress bar, not through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


def start_logging(file: Path | None = None) -> None:
    """Messages of the package go to the console and, where given, to the end of a file. Later calls replace earlier ones."""
    root = logging.getLogger("retinanet")
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = _ConsoleHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
    if file is not None:
        to_file = logging.FileHandler(file, encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(to_file)


class MetricsLog:
    """Figures of a run, one JSON object a line, and the same in TensorBoard.

    Args:
        folder: of the run.
        resumed_at: the step a resumed run goes on from; later lines of the interrupted one are cut off.
    """

    def __init__(self, folder: Path, *, resumed_at: int | None = None):
        self._path = folder / METRICS_FILE
        if resumed_at is None:
            self._path.unlink(missing_ok=True)
        else:
            _cut_back(self._path, resumed_at)
        self._file = open(self._path, "a", encoding="utf-8")
        purge_step = None if resumed_at is None else resumed_at + 1
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """`kind` is "train" or "eval"; not-a-number is written as null, which JSON has."""
        line = {"kind": kind, "step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, image: Tensor) -> None:
        """A uint8 (3, H, W) picture, for TensorBoard alone."""
        self._board.add_image(name, image, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


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
