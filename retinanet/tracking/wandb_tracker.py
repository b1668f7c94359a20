"""Log a run to Weights & Biases."""

import os
from collections.abc import Mapping
from pathlib import Path

from retinanet.config import Config
from retinanet.config.flat import flat_config
from retinanet.tracking.run_id import folder_of_trackers, named, not_installed, read_id, write_id


class WandbTracker:
    """Callback that logs config and metrics to Weights & Biases. A resumed run continues the same W&B run.

    W&B reads its other settings, such as WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE=offline, from the environment.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise not_installed("wandb", "wandb") from None
        self.wandb = wandb

    def on_start(self, folder: Path, cfg: Config, step: int) -> None:
        run_id = read_id(folder, "wandb") if step else None
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "retinanet"),
            id=run_id,
            resume="allow" if run_id else None,
            name=folder.name,
            dir=folder_of_trackers(folder),
            config=flat_config(cfg),
            reinit="create_new",
        )
        write_id(folder, "wandb", self.run.id)
        # A resumed run logs some steps again, which W&B's own step, always increasing, would not allow.
        self.run.define_metric("*", step_metric="step")

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(named("train", metrics) | {"step": step})

    def on_eval(self, step: int, metrics: Mapping[str, float], detections: object) -> None:
        self.run.log(named("eval", metrics) | {"step": step})

    def on_end(self, result: object) -> None:
        self.run.finish()

    def on_error(self, error: BaseException) -> None:
        self.run.finish(exit_code=1)
