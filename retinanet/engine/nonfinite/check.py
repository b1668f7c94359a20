"""What a run does when its guard has found a gradient that is not finite: take the step again, and say why."""

import logging
from pathlib import Path

from retinanet.data.build import train_loader
from retinanet.engine.nonfinite.guard import NonFiniteGradient
from retinanet.engine.nonfinite.replay import replay, write_replay
from retinanet.engine.setup import Run
from retinanet.errors import InputError, first_line
from retinanet.runtime.activity import Activity
from retinanet.runtime.distributed import gather, on_main
from retinanet.structures import Batch

log = logging.getLogger(__name__)


def check_gradients(run: Run, activity: Activity) -> None:
    """Read the guard: the one wait for the device that it costs. Every process calls it at the same step.

    Raises:
        NonFiniteGradient: the run is to stop; the message has the report.
    """
    try:
        bad = run.state.guard.read()
    except NonFiniteGradient as error:
        # Of more such steps than may be left out the first is kept.
        step = error.bad_step.step
        reason = (
            f"training diverged: {error}\nwhat follows is that step with the weights of now: if nothing is seen of it "
            "again, it lay in the weights, which have moved on"
        )
        batches = batches_of_step(run, step, activity)
        message = on_main(lambda: f"{reason}\n{keep(run, step, batches)}")
        raise NonFiniteGradient(message, error.bad_step) from None
    if bad is None:
        return
    if run.cfg.train.on_nonfinite == "skip":
        log.warning(
            "step %d: the gradient was not finite; %d step(s) left out since the last line, %d of the run "
            "(train.max_skipped: %d)",
            bad.step, bad.count, run.state.guard.skipped, run.cfg.train.max_skipped,
        )  # fmt: skip
        return
    batches = batches_of_step(run, bad.step, activity)
    raise NonFiniteGradient(on_main(lambda: report(run, bad.step, batches)), bad)


def batches_of_step(run: Run, step: int, activity: Activity) -> list[Batch] | None:
    """The whole global batch of a step, read once more, on the main process; None on the others.

    Which images a step has, and what becomes of them, depends on the seed and its number alone.
    """
    activity.begin("replaying the step", step)
    cfg = run.cfg.model_copy(update={"data": run.cfg.data.model_copy(update={"workers": 0})})
    own = list(train_loader(cfg, run.train_data, start=step - 1, stop=step, pin_memory=False))
    everyones = gather(own)
    return None if everyones is None else [batch for batches in everyones for batch in batches]


def report(run: Run, step: int, batches: list[Batch]) -> str:
    """What happened, and what to do. The weights are still those that the step met."""
    return (
        f"step {step}: training diverged: the gradient was not finite; weights, optimizer and statistics are as they "
        f"were before that step\n{keep(run, step, batches)}. Lower train.optimizer.lr, raise train.warmup_steps, set "
        "train.clip_norm, correct the images or boxes named above, or go on without such steps: "
        "train.on_nonfinite=skip with --resume"
    )


def keep(run: Run, step: int, batches: list[Batch]) -> str:
    """Put the step into a file with the weights as they are now, take it again from there, and describe it."""
    path: Path = run.folder / f"nonfinite_step_{step:08d}.pt"
    try:
        write_replay(
            path,
            cfg=run.cfg,
            class_names=run.train_data.class_names,
            model_state=run.state.model.state_dict(),
            batches=batches,
            image_ids=run.train_data.image_ids_of(batches),
            step=step,
            dtype=run.dtype,
            loss_scale=run.state.scaler.get_scale() if run.state.scaler.is_enabled() else 1.0,
        )
    except InputError as error:  # a full disk
        return f"images {run.train_data.image_ids_of(batches)}; the step is not kept: {error}"
    try:
        description = replay(path, run.device).describe()
    except (RuntimeError, ValueError, MemoryError) as error:  # a second network may not fit beside the first
        description = f"it could not be taken again here: {first_line(error)}"
    return f"{description}\nthe step is kept in {path}: retinanet train --replay {path} takes it again"
