"""Respond to non-finite gradients: save and replay the step, then stop with a report; or log the skipped steps."""

import logging
from pathlib import Path

from retinanet.data.build import train_loader
from retinanet.engine.nonfinite.guard import NonFiniteGradient
from retinanet.engine.nonfinite.replay import replay
from retinanet.engine.nonfinite.saved_step import SavedStep, write_saved_step
from retinanet.engine.setup import Run
from retinanet.errors import InputError, first_line
from retinanet.runtime.activity import Activity
from retinanet.runtime.distributed import gather, on_main
from retinanet.structures import Batch

log = logging.getLogger(__name__)


def check_gradients(run: Run, activity: Activity) -> None:
    """Check the guard for non-finite gradients, and stop the run or log the skipped steps. Waits for the device once.

    Collective: every process must call it at the same step.

    Raises:
        NonFiniteGradient: the run must stop; the message contains the report.
    """
    try:
        bad = run.state.guard.read()
    except NonFiniteGradient as error:
        # Too many steps were skipped: save the first of them.
        step = error.bad_step.step
        reason = (
            f"training diverged: {error}\nThe step is replayed below with the current weights; if the problem does "
            "not reproduce, the earlier weights caused it"
        )
        batches = batches_of_step(run, step, activity)
        message = on_main(lambda: f"{reason}\n{save_and_replay(run, step, batches)}")
        raise NonFiniteGradient(message, error.bad_step) from None
    if bad is None:
        return
    if run.cfg.train.on_nonfinite == "skip":
        log.warning(
            "step %d: the gradient was not finite; %d step(s) skipped since the last log line, %d in the run "
            "(train.max_skipped: %d)",
            bad.step, bad.count, run.state.guard.skipped, run.cfg.train.max_skipped,
        )  # fmt: skip
        return
    batches = batches_of_step(run, bad.step, activity)
    raise NonFiniteGradient(on_main(lambda: report(run, bad.step, batches)), bad)


def batches_of_step(run: Run, step: int, activity: Activity) -> list[Batch] | None:
    """Reload the global batch of a step, and return it on the main process; None on the others.

    This is possible because the images of a step and their augmentation depend only on the seed and the step number.
    """
    activity.begin("replaying the step", step)
    cfg = run.cfg.model_copy(update={"data": run.cfg.data.model_copy(update={"workers": 0})})
    own = list(
        train_loader(
            cfg,
            run.train_data,
            start=step - 1,
            stop=step,
            pin_memory=False,
            extra_transforms=run.extra_transforms,
        )
    )
    gathered = gather(own)
    return None if gathered is None else [batch for batches in gathered for batch in batches]


def report(run: Run, step: int, batches: list[Batch]) -> str:
    """Describe the problem and what to do. The model must still have the weights from before the step."""
    return (
        f"step {step}: training diverged: the gradient was not finite; weights, optimizer and statistics are as they "
        f"were before that step\n{save_and_replay(run, step, batches)}. Lower train.optimizer.lr, raise "
        "train.warmup_steps, set train.clip_norm, fix the images or boxes named above, or skip such steps: resume with "
        "--resume and train.on_nonfinite=skip"
    )


def save_and_replay(run: Run, step: int, batches: list[Batch]) -> str:
    """Save the step with the current weights, replay it from the file, and describe the result."""
    custom = run.cfg.custom
    if custom.model or custom.class_loss or custom.loss:
        images = run.train_data.image_ids_of(batches)
        return f"images {images}; a step with a custom model or loss is not replayed ({', '.join(custom.described)})"
    path: Path = run.folder / f"nonfinite_step_{step:08d}.pt"
    try:
        saved = SavedStep(
            cfg=run.cfg,
            class_names=run.train_data.class_names,
            model_state=run.state.model.state_dict(),
            batches=batches,
            image_ids=run.train_data.image_ids_of(batches),
            step=step,
            dtype=run.dtype,
            loss_scale=run.state.scaler.get_scale() if run.state.scaler.is_enabled() else 1.0,
        )
        write_saved_step(path, saved)
    except InputError as error:  # for example, the disk is full
        return f"images {run.train_data.image_ids_of(batches)}; the step could not be saved: {error}"
    try:
        description = replay(path, run.device).describe()
    except (RuntimeError, ValueError, MemoryError) as error:  # a second model may not fit in memory
        description = f"it could not be replayed here: {first_line(error)}"
    return f"{description}\nthe step is saved in {path}; replay it with: retinanet train --replay {path}"
