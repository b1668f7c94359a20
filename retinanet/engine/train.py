"""The training loop."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from torch import nn
from torchvision.transforms import v2

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config
from retinanet.config.load import load_config
from retinanet.data.build import build_reader, train_loader
from retinanet.data.transfer import on_device
from retinanet.engine.callbacks import Callback, build_callbacks
from retinanet.engine.custom_parts import CustomParts, as_detector
from retinanet.engine.evaluate import Evaluation, evaluate_dataset
from retinanet.engine.nonfinite.respond import check_gradients
from retinanet.engine.profiler import profiled
from retinanet.engine.recorder import Recorder, open_recorder, record_unreadable
from retinanet.engine.result import TrainResult
from retinanet.engine.run_files import Resume
from retinanet.engine.run_folder import claim_folder, is_of_this_launch
from retinanet.engine.run_report import finish, write_run_report
from retinanet.engine.setup import Run, set_up_run
from retinanet.engine.summary import announce
from retinanet.engine.supervise import supervised
from retinanet.engine.timing import FirstSteps, RunTimer, describe_timing
from retinanet.errors import InputError
from retinanet.formats.custom import CustomDataset
from retinanet.formats.dataset import Dataset
from retinanet.inference.network import inference_model
from retinanet.losses.class_loss import ClassLoss
from retinanet.losses.detection import Criterion
from retinanet.runtime.activity import Activity
from retinanet.runtime.console import format_duration, progress
from retinanet.runtime.device import compiled_graphs, resolve_precision
from retinanet.runtime.distributed import broadcast, is_main, is_restarted, on_main
from retinanet.runtime.stop import StopRequest
from retinanet.structures import Batch

log = logging.getLogger(__name__)


def train(
    cfg: Config | str | Path,
    output: str | Path,
    *,
    dataset: CustomDataset | Dataset | None = None,
    val_dataset: CustomDataset | Dataset | None = None,
    model: nn.Module | None = None,
    loss: ClassLoss | Criterion | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Resume = False,
    overwrite: bool = False,
    profile: bool = False,
    extra_transforms: Sequence[v2.Transform] = (),
) -> TrainResult:
    """Train a detector and write the results to a folder. Under torchrun, all processes train together.

    To resume a run with custom parts, or to use its checkpoints, pass the same parts again.

    Args:
        dataset, val_dataset: replace `data.train` and `data.val`.
        model: replaces the section `model`; see `Detector`. It is trained in place, from the weights that it has.
        loss: replaces `loss.classification` (a `ClassLoss`) or the whole section `loss` (a `Criterion`). It must have
            no state that changes in training.
        callbacks: follow the run; see `Callback`. The trackers in `train.trackers` are called first.
        output: folder for `config.yaml`, `environment.json`, `log.txt`, `metrics.jsonl`, `tensorboard/`,
            `checkpoints/` and, after the last step, `report.html`.
        resume: continue from the last checkpoint in `output`; "auto": start from the beginning if there is none.
        overwrite: delete the run in `output` first.
        profile: profile a few steps and write the results to `output/profile`.
        extra_transforms: transforms from torchvision.transforms.v2 for training images and boxes, applied after those
            of `data.transforms`; see `TorchvisionTransform`. The config does not contain them: pass the same ones to
            resume a run.

    Raises:
        InputError: the user's input is invalid, or another process is training in `output`. Where possible, this is
            detected before the first step, and no folder is left behind.
    """
    cfg = cfg if isinstance(cfg, Config) else load_config(cfg)  # path or name of a config
    parts = CustomParts(dataset, val_dataset, as_detector(model), loss)
    cfg = parts.recorded_in(cfg)
    if resume and overwrite:
        raise InputError("resume and overwrite are mutually exclusive: set only one")
    folder = Path(output)
    with supervised(cfg, folder) as (device, stop, activity):
        # torchrun restarted the workers: resume. Never resume a run from an earlier launch without --resume.
        if is_restarted() and on_main(lambda: is_of_this_launch(folder)):
            resume, overwrite = "auto", False
        called = build_callbacks(cfg, callbacks)
        with claim_folder(folder):
            run = set_up_run(cfg, folder, device, parts=parts, resume=resume, overwrite=overwrite, profile=profile)
            run = run._replace(extra_transforms=extra_transforms, callbacks=called)
            announce(run)
            called.start(folder, run.cfg, run.state.step)
            try:
                with profiled(folder / "profile" if profile else None) as after_step:
                    result = loop(run, stop, activity, after_step)
            except BaseException as error:
                called.error(error)
                raise
            called.end(result)
            return result


def loop(run: Run, stop: StopRequest, activity: Activity, after_step: Callable[[], None]) -> TrainResult:
    """Train from the first step, or from the step of the checkpoint, to the last step."""
    cfg, state, num_steps = run.cfg, run.state, run.num_steps
    metrics: dict[str, float] = {}
    evaluation: Evaluation | None = None  # the last one, on the main process
    evaluated_at = saved_at = stopped_by = None
    timer, first_steps = RunTimer(earlier=state.seconds), FirstSteps(run.device)
    resumed_at = state.step if run.resumed else None
    loader = train_loader(
        cfg,
        run.train_data,
        start=state.step,
        stop=num_steps,
        pin_memory=run.device.type == "cuda",
        extra_transforms=run.extra_transforms,
    )
    batches = on_device(loader, run.device)
    with (
        open_recorder(
            run.folder,
            run.checkpoints,
            resumed_at=resumed_at,
            max_unreadable=cfg.data.max_unreadable,
            callbacks=run.callbacks,
        ) as recorder,
        closing(progress(None, "training", num_steps, initial=state.step, silent=not is_main())) as bar,
    ):
        if not run.resumed:
            recorder.write_start(cfg, run.train_data, run.extra_transforms)
        while True:
            if state.step < num_steps and stop.due(state.step):
                stopped_by = stop.signal_name
                if saved_at != state.step:
                    check_gradients(run, activity)
                    save(run, recorder, timer)
                    record_unreadable(run, recorder)
                break
            # Evaluate before the next step, so that a resumed run repeats an evaluation that was interrupted.
            if run.val_data and evaluated_at != state.step and run.is_due(run.eval_every):
                with timer.measure("evaluation"):
                    metrics, evaluation = evaluate_and_record(run, run.val_data, recorder, activity)
                evaluated_at = state.step
                if cfg.train.early_stop and state.best.evaluations_since >= cfg.train.early_stop:
                    stopped_by = "train.early_stop"
                    log.info(
                        "step %d: %d evaluations without a better %s: stopping early",
                        state.step, state.best.evaluations_since, state.best.metric,
                    )  # fmt: skip
            if state.step == num_steps or stopped_by:
                break

            rates = state.learning_rates()
            were_enough = first_steps.are_enough
            with first_steps.measure():
                take_step(run, batches, activity, timer)
            bar.update()
            after_step()
            if first_steps.are_enough and not were_enough:
                log.info("%s", first_steps.describe(num_steps - state.step, run.evaluations_left))

            log_due = run.is_due(cfg.train.log_every)
            # Save before evaluating, so that there is a checkpoint to mark as the best.
            save_due = run.is_due(run.save_every) or (run.val_data is not None and run.is_due(run.eval_every))
            if log_due or save_due:
                check_gradients(run, activity)
                state.divergence.read(state.step)
            if log_due:
                bar.logged(log_step(run, recorder, timer, rates))
                if state.step < num_steps and is_time_up(cfg, timer):
                    stopped_by = "train.max_hours"
            if save_due or stopped_by:
                with timer.measure("saving"):
                    save(run, recorder, timer)
                saved_at = state.step
            if log_due or save_due:
                record_unreadable(run, recorder)
    result = TrainResult(
        folder=run.folder,
        step=state.step,
        metrics=metrics,
        best=state.best.value,
        best_metric=state.best.metric,
        stopped_by=stopped_by,
        diverged=state.divergence.diverged,
        seconds=timer.run_seconds,
    )
    finish(run, result)
    if evaluation and evaluated_at and not result.is_preempted:
        write_run_report(run, evaluation, evaluated_at, stop=stop, activity=activity)
    return result


def take_step(run: Run, batches: Iterator[Batch], activity: Activity, timer: RunTimer) -> None:
    """Read this process's share of the next global batch and train on it.

    Args:
        batches: iterator over batches on the device; each step takes `train.accumulate` of them.
    """
    state, step = run.state, run.state.step + 1
    activity.begin("reading images", step)
    with timer.measure("data"):
        own = [next(batches) for _ in range(run.cfg.train.accumulate)]
    activity.begin("training", step, own, run.train_data.image_ids_of(own))
    metrics = run.train_step(own, step)
    state.running.add(metrics)
    state.divergence.add(metrics.losses)
    timer.count_step(run.cfg.train.batch_size)
    state.unreadable += [(step, image) for batch in own for image in batch.unreadable]
    state.schedule.step()
    state.step = step


def log_step(run: Run, recorder: Recorder, timer: RunTimer, rates: dict[str, float]) -> str:
    """Log mean metrics and timing since the last line, and return the text for the progress bar. Collective.

    Args:
        rates: learning rates of the step, from `TrainState.learning_rates`.
    """
    state = run.state
    timing = timer.read()
    means = state.running.read()
    if run.compile:
        means["compiled_graphs"] = compiled_graphs()
    recorder.write_train_metrics(state.step, means | timing | rates)
    backbone = f" (backbone {rates['backbone_lr']:.3g})" if "backbone_lr" in rates else ""
    log.info(
        "step %d of %d: loss %.4g (class %.4g, box %.4g), lr %.3g%s, %.1f images/s, time: %s; %s left",
        state.step, run.num_steps, means["loss"], means["class_loss"], means["box_loss"], rates["lr"], backbone,
        timing["images_per_s"], describe_timing(timing),
        format_duration(timer.time_left(run.num_steps - state.step, run.evaluations_left)),
    )  # fmt: skip
    return f"loss {means['loss']:.4g}, {timing['images_per_s']:.1f} images/s"


def is_time_up(cfg: Config, timer: RunTimer) -> bool:
    """Whether the run has reached `train.max_hours`, according to the clock of the main process. Collective."""
    limit = cfg.train.max_hours
    return limit is not None and broadcast(timer.run_seconds >= 3600 * limit)


def save(run: Run, recorder: Recorder, timer: RunTimer) -> None:
    """Save a checkpoint of the current step in the background. Collective."""
    run.state.share_statistics()
    run.state.seconds = timer.run_seconds
    checkpoint = Checkpoint(
        config=run.cfg,
        class_names=tuple(run.train_data.class_names),
        category_ids=tuple(run.train_data.category_ids),
        step=run.state.step,
        state=run.state.state_dict(),
    )
    recorder.save(checkpoint)


def evaluate(run: Run, data: Dataset, activity: Activity) -> Evaluation | None:
    """Evaluate the current weights; the main process returns the result, the others None. Collective."""
    state = run.state
    state.share_statistics()

    def on_batch(batch: Batch | None) -> None:
        if batch:
            activity.begin("evaluating", state.step, [batch], data.image_ids_of([batch]))
        else:
            activity.begin("scoring", state.step)

    network = inference_model(
        state.evaluated,
        dtype=resolve_precision(run.device, run.cfg.inference.precision),
        compile=False,  # compiling would take minutes at every evaluation
    )
    return evaluate_dataset(run.cfg, network, data, device=run.device, loss=run.loss, on_batch=on_batch)


def evaluate_and_record(
    run: Run, data: Dataset, recorder: Recorder, activity: Activity
) -> tuple[dict[str, float], Evaluation | None]:
    """Evaluate the model, record the metrics, and mark the current checkpoint if it is the best so far.

    Returns: the metrics, on every process, and the evaluation, on the main process.
    """
    state, evaluation = run.state, evaluate(run, data, activity)
    if evaluation:
        recorder.write_evaluation(state.step, evaluation, build_reader(run.cfg, data, [], seed=0))
    metrics = broadcast(evaluation.metrics if evaluation else {})
    if state.best.update(metrics):
        recorder.mark_best(state.step)
    log.info(
        "step %d: AP %.4f, AP50 %.4f, validation loss %.4g (best %s %.4f)",
        state.step, metrics["AP"], metrics["AP50"], metrics["loss"], state.best.metric, state.best.value,
    )  # fmt: skip
    return metrics, evaluation
