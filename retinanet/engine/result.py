"""The outcome of a training run."""

from pathlib import Path
from typing import NamedTuple

from retinanet.runtime.stop import SIGNALS

STOP_SIGNALS = [number.name for number in SIGNALS]


class TrainResult(NamedTuple):
    """The outcome of a run."""

    folder: Path
    step: int  # number of completed steps
    metrics: dict[str, float]  # from the last evaluation; empty if there was none
    best: float  # best value of `best_metric` so far; nan if it could not be measured
    best_metric: str  # value of `train.best_metric`
    stopped_by: str | None  # signal or config key that stopped the run early; None if it ran to the end
    diverged: bool  # whether the loss had exploded at the end; see `retinanet.engine.divergence`
    seconds: float  # duration of the run, including the time before it was resumed

    @property
    def is_preempted(self) -> bool:
        """Whether a signal stopped the run, which can then be resumed."""
        return self.stopped_by in STOP_SIGNALS
