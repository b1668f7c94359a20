"""Events of a run that is interrupted and resumed, for the tests of trackers."""

import math
from pathlib import Path

from retinanet.config import Config, TrainConfig
from retinanet.engine.callbacks import Callback

CONFIG = Config(train=TrainConfig(steps=6, batch_size=4))
# What a tracker should have recorded in the end: (step, value) by name. Step 4 was logged twice.
LOGGED = {"train/loss": [(2, 3.5), (4, 2.5), (4, 2.5), (6, 1.5)], "eval/AP": [(3, 0.25), (6, 0.5)]}


def follow_interrupted_run(tracker: Callback, folder: Path) -> None:
    """A run fails after step 4, and its checkpoint is of step 3."""
    tracker.on_start(folder, CONFIG, 0)
    tracker.on_log(2, {"loss": 3.5})
    tracker.on_eval(3, {"AP": 0.25, "APs": math.nan}, {})
    tracker.on_log(4, {"loss": 2.5})
    tracker.on_error(RuntimeError("lost the GPU"))


def follow_resumed_run(tracker: Callback, folder: Path) -> None:
    """The same run resumes from step 3 and ends at step 6."""
    tracker.on_start(folder, CONFIG, 3)
    tracker.on_log(4, {"loss": 2.5})
    tracker.on_log(6, {"loss": 1.5})
    tracker.on_eval(6, {"AP": 0.5, "AP/a class: 50 %": 0.5}, {})
    tracker.on_end(None)
