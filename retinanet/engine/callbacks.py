"""Callbacks: follow a run from Python, as the trackers in `retinanet.tracking` do."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from retinanet.config import Config
from retinanet.config.custom import part_name
from retinanet.engine.result import TrainResult
from retinanet.errors import InputError
from retinanet.runtime.distributed import is_main
from retinanet.structures import Detections
from retinanet.tracking.build import build_tracker

log = logging.getLogger(__name__)


class Callback(Protocol):
    """Base class of callbacks, whose methods do nothing. Override those that you need.

    Methods run in the main process only, and never between a batch and its optimizer step. Training waits for them, so
    they should take seconds at most. If one raises an exception, the run continues: the first exception of each
    callback is logged with its traceback, and the number of all of them at the end.
    """

    def on_start(self, folder: Path, cfg: Config, step: int) -> None:
        """Called when the run starts or resumes.

        Args:
            folder: the run folder.
            cfg: the config as recorded; `cfg.custom` names the parts that were passed in Python.
            step: number of completed steps: 0, or that of the checkpoint.
        """

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called every `train.log_every` steps, with means since the previous call, as in `metrics.jsonl`."""

    def on_eval(self, step: int, metrics: Mapping[str, float], detections: Mapping[int, Detections]) -> None:
        """Called after an evaluation.

        Args:
            metrics: as in `metrics.jsonl`; NaN for metrics that cannot be measured.
            detections: on the validation set, by image index.
        """

    def on_end(self, result: TrainResult) -> None:
        """Called at the end of the run, after all files are written; `result.stopped_by` says what stopped it early."""

    def on_error(self, error: BaseException) -> None:
        """Called if the run fails with an exception after `on_start`."""


EVENTS = ("on_start", "on_log", "on_eval", "on_end", "on_error")


class Callbacks:
    """Calls the callbacks of a run; on all processes except the main one, there are none.

    Args:
        callbacks: objects with some of the methods of `Callback`.

    Raises:
        InputError: an object has none of these methods.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()):
        for callback in callbacks:
            if isinstance(callback, type) or not any(hasattr(callback, event) for event in EVENTS):
                raise InputError(f"callbacks: found {callback!r}, expected an object with {', '.join(EVENTS)}")
        self._callbacks = list(callbacks) if is_main() else []
        self._failures = [0] * len(self._callbacks)

    def start(self, folder: Path, cfg: Config, step: int) -> None:
        self._call("on_start", lambda callback: callback.on_start(folder, cfg, step))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call("on_log", lambda callback: callback.on_log(step, dict(metrics)))

    def evaluated(self, step: int, metrics: Mapping[str, float], detections: Mapping[int, Detections]) -> None:
        self._call("on_eval", lambda callback: callback.on_eval(step, dict(metrics), detections))

    def end(self, result: TrainResult) -> None:
        self._call("on_end", lambda callback: callback.on_end(result))
        self._report()

    def error(self, error: BaseException) -> None:
        self._call("on_error", lambda callback: callback.on_error(error))
        self._report()

    def _call(self, event: str, call: Callable[[Callback], None]) -> None:
        for number, callback in enumerate(self._callbacks):
            if not hasattr(callback, event):
                continue
            try:
                call(callback)
            except Exception:
                self._failures[number] += 1
                if self._failures[number] == 1:
                    log.warning(
                        "%s.%s failed; the run continues, and further failures are only counted",
                        part_name(callback), event, exc_info=True,
                    )  # fmt: skip

    def _report(self) -> None:
        for callback, failures in zip(self._callbacks, self._failures, strict=True):
            if failures:
                log.warning("%s failed %d time(s) in this run", part_name(callback), failures)


def build_callbacks(cfg: Config, callbacks: Sequence[Callback]) -> Callbacks:
    """Combine the trackers of the config with a user's callbacks.

    Raises:
        InputError: the package of a tracker is not installed, or a callback has no method of `Callback`.
    """
    return Callbacks([*map(build_tracker, cfg.train.trackers if is_main() else ()), *callbacks])
