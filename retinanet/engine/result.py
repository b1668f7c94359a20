"""The outcome of a training run."""

from pathlib import Path
from typing import NamedTuple

from retinanet.runtime.stop import SIGNALS

STOP_SIGNALS = [number.name for number in SIGNALS]


class TrainResult(NamedTuple):
    """The outcome of a run."""

    folder: Path
    step: int  # steps done
    metrics: dict[str, float]  # of the last evaluation; empty without one
    best: float  # best value of `best_metric` so far; nan without a validation set
    best_metric: str  # as in `train.best_metric`
    stopped_by: str | None  # signal or config key that stopped the run before its last step
    seconds: float  # duration of the run, including the parts before it was resumed

    @property
    def is_preempted(self) -> bool:
        """Whether a signal stopped the run; it can be resumed."""
        return self.stopped_by in STOP_SIGNALS
