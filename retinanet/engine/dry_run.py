"""Dry run: check and measure a run with a few steps, one checkpoint and a small evaluation."""

import logging
import time
from pathlib import Path
from typing import NamedTuple

from retinanet.config import Config
from retinanet.data.build import train_loader
from retinanet.data.transfer import on_device
from retinanet.engine.nonfinite.respond import check_gradients
from retinanet.engine.recorder import open_recorder, record_unreadable
from retinanet.engine.setup import Run, set_up_run
from retinanet.engine.summary import announce, kept
from retinanet.engine.supervise import supervised
from retinanet.engine.timing import MEASURED_STEPS, WARM_UP_STEPS, FirstSteps, RunTimer
from retinanet.engine.train import evaluate, evaluate_and_record, log_step, save, take_step
from retinanet.runtime.activity import Activity
from retinanet.runtime.console import format_bytes, format_duration
from retinanet.runtime.distributed import broadcast, on_main
from retinanet.runtime.memory import peak_memory
from retinanet.runtime.stop import StopRequest

log = logging.getLogger(__name__)

EVALUATED_BATCHES = 2


class DryRun(NamedTuple):
    """Measurements of a dry run, and the length of the full run."""

    steps: int  # number of steps of the full run
    step_seconds: float  # median, excluding warm-up steps
    measured_steps: int
    evaluations: int  # number of evaluations of the full run
    images: int  # in the validation set
    image_seconds: float  # per validation image
    measured_images: int
    memory: int | None  # peak of the main process in bytes
    checkpoint_bytes: int
    kept: str  # description of the checkpoints that are kept

    @property
    def seconds(self) -> float:
        """Expected duration of the run."""
        return self.steps * self.step_seconds + self.evaluations * self.images * self.image_seconds

    def describe(self) -> str:
        """Describe the estimated cost of the run, one line per topic."""
        evaluation = self.images * self.image_seconds
        rows = {
            "steps": f"{self.steps} x {format_duration(self.step_seconds)}: "
            f"{format_duration(self.steps * self.step_seconds)} (median of {self.measured_steps} steps)",
            "evaluations": f"{self.evaluations} x {self.images} images, {format_duration(evaluation)} each "
            f"(timed on {self.measured_images} images)"
            if self.evaluations
            else "none",
            "total": f"{format_duration(self.seconds)} on this machine",
            "peak memory": "unknown" if self.memory is None else f"{format_bytes(self.memory)} so far, in one process",
            "checkpoints": f"{format_bytes(self.checkpoint_bytes)} each, {self.kept}",
        }
        return "\n".join(f"  {name:14} {text}" for name, text in rows.items())


def measure_run(cfg: Config, folder: Path) -> DryRun | None:
    """Check and measure a run: train a few steps, save a checkpoint, and evaluate a few images.

    Args:
        folder: an empty folder for the results, which the caller removes.

    Returns: the measurements, on every process; None if a signal stopped the dry run.

    Raises:
        InputError: see `train`.
    """
    with supervised(cfg, folder) as (device, stop, activity):
        run = set_up_run(cfg, folder, device, resume=False, overwrite=False, profile=False)
        announce(run)
        measured = rehearse(run, stop, activity)
        if measured:
            log.info("estimate for the full run at the speed of this dry run:\n%s", measured.describe())
        return measured


def rehearse(run: Run, stop: StopRequest, activity: Activity) -> DryRun | None:
    """Take the first steps of a run, save, evaluate, and return the measurements; None if a signal stops it."""
    state, timer, first_steps = run.state, RunTimer(earlier=0.0), FirstSteps(run.device)
    evaluations, most = run.evaluations_left, min(run.num_steps, WARM_UP_STEPS + MEASURED_STEPS)
    loader = train_loader(run.cfg, run.train_data, start=0, stop=most, pin_memory=run.device.type == "cuda")
    batches = on_device(loader, run.device)
    image_seconds, measured_images = 0.0, 0
    with open_recorder(
        run.folder, run.checkpoints, resumed_at=None, max_unreadable=run.cfg.data.max_unreadable
    ) as recorder:
        # The clocks of several processes differ, but they must take the same number of steps.
        while state.step < most and not broadcast(first_steps.are_enough):
            if stop.due(state.step):
                return None
            rates = state.learning_rates()
            with first_steps.measure():
                take_step(run, batches, activity, timer)
        check_gradients(run, activity)
        log_step(run, recorder, timer, rates)
        save(run, recorder, timer)
        record_unreadable(run, recorder)
        if run.val_data:
            batch_size = run.cfg.train.eval_batch_size or run.cfg.train.batch_size
            data = run.val_data.first(EVALUATED_BATCHES * batch_size)
            # This evaluation is only a check. It is not timed, because the first evaluation is slower than later ones.
            evaluate_and_record(run, data.first(batch_size), recorder, activity)
            start = time.perf_counter()
            evaluate(run, data, activity)
            image_seconds, measured_images = (time.perf_counter() - start) / len(data), len(data)
    on_main(lambda: run.checkpoints.check_saved(state.step))
    return broadcast(
        DryRun(
            steps=run.num_steps,
            step_seconds=first_steps.step_seconds,
            measured_steps=len(first_steps.seconds) - first_steps.warm_up,
            evaluations=evaluations,
            images=len(run.val_data) if run.val_data else 0,
            image_seconds=image_seconds,
            measured_images=measured_images,
            memory=peak_memory(run.device),
            checkpoint_bytes=on_main(lambda: run.checkpoints.path_of(state.step).stat().st_size),
            kept=kept(run.cfg.train),
        )
    )
