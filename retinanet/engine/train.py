"""The training loop, top to bottom."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from retinanet.checkpoint.writer import CheckpointWriter
from retinanet.config import Config
from retinanet.data.build import eval_loader, eval_plan, train_loader
from retinanet.data.transfer import on_device
from retinanet.data.unreadable import Quarantine
from retinanet.detection.build import build_assignment
from retinanet.detection.postprocess import Postprocess, build_postprocess
from retinanet.engine.evaluate import Evaluation, evaluate
from retinanet.engine.metrics_log import MetricsLog
from retinanet.engine.nonfinite.check import check_gradients
from retinanet.engine.profiler import profiled
from retinanet.engine.run_folder import MARKER, UNREADABLE_FILE, is_of_this_launch, self_description
from retinanet.engine.setup import Run, assemble
from retinanet.engine.timing import Clock, describe_times
from retinanet.errors import InputError
from retinanet.formats.coco import CocoData
from retinanet.losses.detection import DetectionLoss
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.console import progress
from retinanet.runtime.device import compiled_graphs, resolve_device, set_determinism
from retinanet.runtime.distributed import (
    broadcast,
    gather,
    is_launched,
    is_main,
    is_restarted,
    on_main,
    process_group,
    rank,
    world_size,
)
from retinanet.runtime.failure import report_failure
from retinanet.runtime.logging import start_logging
from retinanet.runtime.memory import explained
from retinanet.runtime.stop import SIGNALS, StopRequest, write_preempted
from retinanet.runtime.watchdog import Watchdog, end_with_parent
from retinanet.structures import Batch

log = logging.getLogger(__name__)

STOP_SIGNALS = [number.name for number in SIGNALS]
GROUP_PATIENCE = 2.0  # of the other processes' operations, beyond that of the watchdog, which is to speak first


class TrainResult(NamedTuple):
    folder: Path
    step: int
    metrics: dict[str, float]  # of the last evaluation; empty without one
    best_ap: float  # nan without a validation set
    stopped_by: str | None  # what ended the run before its last step: a signal, or a key of the config
    seconds: float  # that it took, over all its resumptions

    @property
    def is_preempted(self) -> bool:
        """Whether it was told to stop, and can go on."""
        return self.stopped_by in STOP_SIGNALS


def train(
    cfg: Config,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    profile: bool = False,
) -> TrainResult:
    """Train as the config says, into a run folder; under torchrun together with the other processes.

    Args:
        output: holds `config.yaml`, `environment.json`, `log.txt`, `metrics.jsonl`, `tensorboard/` and `checkpoints/`.
        resume: go on from the last checkpoint in `output`; without one, start from the beginning and say so.
        overwrite: delete the run that `output` holds.
        dry_run: one step, one checkpoint and an evaluation of a few images, to see that all of it works.
        profile: record where the time of a few steps goes, into `output/profile`.

    Raises:
        InputError: anything wrong with what the user gave, before the first step where it can be known then.
    """
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other: give one of them")
    set_determinism(cfg.train.deterministic)
    torch.manual_seed(cfg.train.seed)
    device = resolve_device(cfg.device)
    folder = Path(output)
    batches: list[Batch] = []  # at hand, in training or evaluation: what is told where memory runs out

    def give_up(signal_name: str) -> None:
        """Out of grace, without a save. A scheduler may begin the run again."""
        if (folder / MARKER).exists():
            write_preempted(folder, step=None, signal_name=signal_name)

    if is_launched():
        end_with_parent()
    with (
        process_group(device, timeout=GROUP_PATIENCE * cfg.train.stall_timeout) as store,
        StopRequest(store, grace=cfg.train.grace, rank=rank(), world_size=world_size(), give_up=give_up) as stop,
        Watchdog(store, rank=rank(), timeout=cfg.train.stall_timeout, folder=folder) as watchdog,
    ):
        start_logging(silent=not is_main())
        try:
            # By torchrun, after a worker died; a run of before is not gone on with unasked.
            if is_restarted() and on_main(lambda: is_of_this_launch(folder)):
                resume, overwrite = True, False
            with explained(cfg, batches, lambda: watchdog.doing):
                run = assemble(
                    cfg, folder, device, resume=resume, overwrite=overwrite, dry_run=dry_run, profile=profile
                )
                with profiled(folder / "profile" if profile else None) as profiler_step:
                    return loop(run, batches, stop, watchdog, profiler_step)
        except Exception as error:
            report_failure(store, folder, error, rank=rank(), doing=watchdog.doing)
            raise


def loop(
    run: Run, batches: list[Batch], stop: StopRequest, watchdog: Watchdog, after_step: Callable[[], None]
) -> TrainResult:
    """From the first step, or the one that a checkpoint was written after, to the last.

    Args:
        batches: is made to hold what is being computed on.
    """
    cfg, state, num_steps = run.cfg, run.state, run.num_steps
    metrics: dict[str, float] = {}
    evaluated_at = saved_at = stopped_by = None
    clock = Clock(before=state.seconds)
    metrics_log = MetricsLog(run.folder, resumed_at=state.step if run.resumed else None) if is_main() else None
    quarantine = Quarantine(run.folder / UNREADABLE_FILE, budget=cfg.data.max_unreadable) if is_main() else None
    loader = train_loader(cfg, run.train_data, start=state.step, stop=num_steps, pin_memory=run.device.type == "cuda")
    parts = on_device(loader, run.device)
    bar = progress(None, "training", num_steps, initial=state.step)
    try:
        with CheckpointWriter(run.checkpoints) if is_main() else nullcontext() as writer:
            while True:
                if state.step < num_steps and stop.due(state.step):
                    stopped_by = stop.signal_name
                    if saved_at != state.step:
                        check_gradients(run, watchdog)
                        save(run, writer, clock)
                        put_aside(run, quarantine)
                    break
                # Here, so that a run resumed at this step evaluates what an interrupted one had not.
                if run.val_data and evaluated_at != state.step and is_due(state.step, run.eval_every, num_steps):
                    with clock.spent_on("evaluation"):
                        metrics = score(run, metrics_log, writer, watchdog, batches)
                    evaluated_at = state.step
                    if cfg.train.early_stop and state.evaluations_since_best >= cfg.train.early_stop:
                        stopped_by = "train.early_stop"
                        log.info("step %d: no better AP in %d evaluations: done", state.step, cfg.train.early_stop)
                if state.step == num_steps or stopped_by:
                    break

                batches.clear()
                watchdog.beat(state.step + 1, phase="reading images")
                with clock.spent_on("data"):
                    batches[:] = [next(parts) for _ in range(cfg.train.accumulate)]
                watchdog.beat(state.step + 1, run.train_data.image_ids(batches))
                lr = state.schedule.get_last_lr()[0]
                figures = run.train_step(batches, state.step + 1)
                state.running.add(figures)
                clock.stepped(cfg.train.batch_size)
                state.unreadable += [image for batch in batches for image in batch.unreadable]
                state.schedule.step()
                state.step += 1
                bar.update()
                after_step()

                due_log = is_due(state.step, cfg.train.log_every, num_steps)
                due_save = is_due(state.step, run.save_every, num_steps)
                # What is evaluated is saved before, so that it can be marked as the best.
                due_save |= run.val_data is not None and is_due(state.step, run.eval_every, num_steps)
                if due_log or due_save:
                    check_gradients(run, watchdog)
                if due_log:
                    write_figures(run, metrics_log, clock, lr, bar)
                    if state.step < num_steps and time_is_up(cfg, clock):
                        stopped_by = "train.max_hours"
                if due_save or stopped_by:
                    with clock.spent_on("saving"):
                        save(run, writer, clock)
                    saved_at = state.step
                if due_log or due_save:
                    put_aside(run, quarantine)
    finally:
        bar.close()
        if metrics_log:
            metrics_log.close()
    result = TrainResult(run.folder, state.step, metrics, state.best_ap, stopped_by, clock.run_seconds)
    done = f"stopped by {stopped_by} after" if stopped_by else "trained"
    log.info("%s %d steps; checkpoints are in %s", done, state.step, run.checkpoints.folder)
    # All leave together: the first process that ends with an error code makes torchrun end the others.
    on_main(lambda: check_saved(run))
    if result.is_preempted and is_main():
        write_preempted(run.folder, step=state.step, signal_name=stopped_by)
    return result


def is_due(step: int, every: int, last: int) -> bool:
    return step > 0 and (step % every == 0 or step == last)


def score(
    run: Run,
    metrics_log: MetricsLog | None,
    writer: CheckpointWriter | None,
    watchdog: Watchdog,
    batches: list[Batch],
) -> dict[str, float]:
    """Evaluate, note it, and mark the checkpoint of this step where it is the best; the figures, on every rank.

    Args:
        batches: is made to hold what is being evaluated.
    """
    state = run.state
    state.share_statistics()
    postprocess = build_postprocess(run.cfg.postprocess, class_activation=run.cfg.model.class_activation)

    def beat(batch: Batch | None) -> None:
        if batch:
            batches[:] = [batch]
            watchdog.beat(state.step, run.val_data.image_ids(batches), phase="evaluating")
        else:
            watchdog.beat(state.step, phase="scoring")

    result = evaluate_now(
        run.cfg, state.evaluated, run.val_data, postprocess, run.criterion, run.device, run.dtype, beat
    )
    metrics: dict[str, float] = {}
    if result and metrics_log:
        metrics = result.scores.metrics | result.losses
        metrics_log.write("eval", state.step, metrics | per_class_figures(result))
        metrics_log.images(state.step, result.detections, run.val_data)
    metrics = broadcast(metrics)
    if not state.best_ap >= metrics["AP"]:
        state.best_ap, state.evaluations_since_best = metrics["AP"], 0
        if is_main():
            writer.mark_best(state.step)
    else:
        state.evaluations_since_best += 1
    log.info(
        "step %d: AP %.4f, AP50 %.4f, validation loss %.4f (best AP %.4f)",
        state.step, metrics["AP"], metrics["AP50"], metrics["loss"], state.best_ap,
    )  # fmt: skip
    return metrics


def save(run: Run, writer: CheckpointWriter | None, clock: Clock) -> None:
    """Hand a copy of everything to the writer, which needs no further look at it."""
    run.state.share_statistics()
    run.state.seconds = clock.run_seconds
    content = run.state.state_dict()
    if is_main():
        writer.save(run.state.step, content | self_description(run.cfg, run.train_data))


def check_saved(run: Run) -> None:
    """
    Raises:
        InputError: the disk did not take the last checkpoint.
    """
    path = run.checkpoints.path_of(run.state.step)
    if not path.exists():
        whole = ", ".join(file.name for file in run.checkpoints.files()) or "none"
        raise InputError(
            f"{path}: could not be written, see the warnings above; checkpoints that are whole: {whole}. Make room on "
            "the disk, and go on from there with --resume"
        )


def time_is_up(cfg: Config, clock: Clock) -> bool:
    """Whether the run has taken as long as it may, by the clock of the main process."""
    limit = cfg.train.max_hours
    return limit is not None and broadcast(clock.run_seconds >= 3600 * limit)


def write_figures(run: Run, metrics_log: MetricsLog | None, clock: Clock, lr: float, bar: tqdm) -> None:
    """One line of the log: what was learnt, how fast, where the time went, how long it will take."""
    state = run.state
    times = clock.read()
    means = state.running.read()
    if run.compile:
        means["compiled_graphs"] = compiled_graphs()
    if metrics_log:
        metrics_log.write("train", state.step, means | times | {"lr": lr})
    bar.set_postfix_str(f"loss {means['loss']:.3f}, {times['images_per_s']:.1f} images/s")
    log.info(
        "step %d of %d: loss %.4f (class %.4f, box %.4f), lr %.3g, %.1f images/s, time: %s; %s left",
        state.step, run.num_steps, means["loss"], means["class_loss"], means["box_loss"], lr,
        times["images_per_s"], describe_times(times), clock.left(run.num_steps - state.step),
    )  # fmt: skip


def put_aside(run: Run, quarantine: Quarantine | None) -> None:
    """Write down the images that no process could read since the last time.

    Raises:
        InputError: they are too many.
    """
    found = gather(run.state.unreadable)
    run.state.unreadable = []
    everyone = [image for images in found or [] for image in images]
    on_main(lambda: quarantine.add(run.state.step, everyone, run.train_data.records))


def evaluate_now(
    cfg: Config,
    model: RetinaNet,
    data: CocoData,
    postprocess: Postprocess,
    criterion: DetectionLoss,
    device: torch.device,
    dtype: torch.dtype,
    beat: Callable[[Batch | None], None] = lambda batch: None,
) -> Evaluation | None:
    """The model on a validation set, as the config says; None on all processes but the main one.

    Args:
        beat: called with each batch before it is detected on, and with None before the scores are worked out.
    """

    def batches() -> Iterator[Batch]:
        for batch in eval_loader(cfg, data, pin_memory=device.type == "cuda"):
            beat(batch)
            yield batch
        beat(None)

    return evaluate(
        model,
        batches(),
        data,
        postprocess=postprocess,
        criterion=criterion,
        assign=build_assignment(cfg.assignment),
        device=device,
        dtype=dtype,
        num_batches=math.ceil(len(eval_plan(cfg, data)) / world_size()),
    )


def per_class_figures(result: Evaluation) -> dict[str, float]:
    return {f"AP/{name}": value for name, value in result.scores.per_class.items()}
