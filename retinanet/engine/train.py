"""The training loop, top to bottom."""

import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from retinanet.checkpoint import CheckpointFolder
from retinanet.config import Config
from retinanet.config_file import config_to_yaml
from retinanet.data.build import eval_loader, eval_plan, load_train_data, load_val_data, train_loader
from retinanet.data.coco import CocoData
from retinanet.data.transfer import on_device
from retinanet.detection.losses import DetectionLoss, build_loss
from retinanet.detection.postprocess import Postprocess
from retinanet.device import (
    compiled_graphs,
    memory_format_for,
    resolve_compile,
    resolve_device,
    resolve_precision,
    set_determinism,
)
from retinanet.engine.evaluate import Evaluation, evaluate, progress
from retinanet.engine.logger import MetricsLog, RunningMeans, log_to_file, start_logging
from retinanet.engine.optimizer import build_optimizer, build_schedule, restore_optimizer
from retinanet.engine.recipe import describe, write_environment
from retinanet.engine.run_folder import CHECKPOINTS, check_folder, check_same_run, clear_folder, self_description
from retinanet.engine.step import TrainStep
from retinanet.errors import InputError
from retinanet.model.retinanet import RetinaNet, build_model, build_model_for_training

log = logging.getLogger(__name__)


class TrainResult(NamedTuple):
    folder: Path
    step: int
    metrics: dict[str, float]  # of the last evaluation; empty without a validation set
    best_ap: float  # nan without a validation set


def train(cfg: Config, output: str | Path, *, resume: bool = False, overwrite: bool = False) -> TrainResult:
    """Train as the config says, into a run folder.

    Args:
        output: holds `config.yaml`, `environment.json`, `log.txt`, `metrics.jsonl`, `tensorboard/` and `checkpoints/`.
        resume: go on from the last checkpoint in `output`; without one, start from the beginning and say so.
        overwrite: delete the run that `output` holds.

    Raises:
        InputError: anything wrong with what the user gave, before the first step where it can be known then.
    """
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other: give one of them")
    folder = Path(output)
    checkpoints = CheckpointFolder(folder / CHECKPOINTS, keep=cfg.train.keep_checkpoints)
    check_folder(folder, resume=resume, overwrite=overwrite)
    start_logging()
    set_determinism(cfg.train.deterministic)
    torch.manual_seed(cfg.train.seed)
    device = resolve_device(cfg.device)
    dtype = resolve_precision(device, cfg.train.precision)
    compile = resolve_compile(device, cfg.train.compile)

    train_data = load_train_data(cfg)
    val_data = load_val_data(cfg, train_data.class_names) if cfg.data.val else None
    num_steps = run_length(cfg, len(train_data.records))
    eval_every = cfg.train.eval_every or epoch_steps(cfg, len(train_data.records))
    save_every = cfg.train.save_every or epoch_steps(cfg, len(train_data.records))

    last, content = checkpoints.last_whole() if resume else (None, None)
    num_classes = len(train_data.class_names)
    # Weights that a checkpoint is about to replace need no download.
    model = build_model(cfg.model, num_classes) if content else build_model_for_training(cfg.model, num_classes)
    model.to(device=device, memory_format=memory_format_for(device, dtype))
    optimizer = build_optimizer(model, cfg.train)
    schedule = build_schedule(optimizer, cfg.train, num_steps)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    criterion = build_loss(cfg.loss, compile=compile)
    postprocess = Postprocess(**cfg.postprocess.model_dump())
    train_step = TrainStep(
        model,
        criterion,
        optimizer,
        scaler,
        assignment=cfg.assignment,
        dtype=dtype,
        clip_norm=cfg.train.clip_norm,
        compile=compile,
    )

    step, best_ap = 0, math.nan
    if content:
        check_same_run(content, cfg, train_data, last)
        model.load_state_dict(content["model"])
        restore_optimizer(optimizer, content["optimizer"])
        schedule.load_state_dict(content["schedule"])
        scaler.load_state_dict(content["scaler"])
        torch.set_rng_state(content["rng_state"])
        step, best_ap = content["step"], content["best_ap"]
        log.info("going on from %s, step %d of %d", last, step, num_steps)
    elif resume:
        log.info("%s holds no checkpoint: starting from the beginning", folder)
    if overwrite:
        clear_folder(folder)  # not before: a mistake in the new run's input must not cost the old one
    log_to_file(folder / "log.txt")
    (folder / "config.yaml").write_text(config_to_yaml(cfg), encoding="utf-8")
    write_environment(folder / "environment.json")
    metrics_log = MetricsLog(folder, resumed_at=step if content else None)
    log.info("run %s\n%s", folder, describe(cfg, train_data, model, num_steps, device, dtype))
    if cfg.train.warmup_steps > num_steps / 2:
        log.warning("train.warmup_steps %d is more than half of the %d steps", cfg.train.warmup_steps, num_steps)

    def state() -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": scaler.state_dict(),
            "rng_state": torch.get_rng_state(),
            "best_ap": best_ap,
            **self_description(cfg, train_data),
        }

    metrics: dict[str, float] = {}
    evaluated = False
    running = RunningMeans(device, skips_overflow=scaler.is_enabled())
    model.train()
    batches = on_device(
        train_loader(cfg, train_data, start=step, stop=num_steps, pin_memory=device.type == "cuda"), device
    )
    bar = progress(None, "training", num_steps, initial=step)
    try:
        while True:
            # At the top, so that a run resumed at this step evaluates what an interrupted one had not.
            if val_data and not evaluated and (step == num_steps or (step and step % eval_every == 0)):
                result = evaluate_now(cfg, model, val_data, postprocess, criterion, device, dtype)
                metrics = result.scores.metrics | result.losses
                metrics_log.write("eval", step, metrics | per_class_figures(result))
                metrics_log.pictures(step, result.detections, val_data)
                if not best_ap >= metrics["AP"]:
                    best_ap = metrics["AP"]
                    checkpoints.mark_best(step)
                log.info(
                    "step %d: AP %.4f, AP50 %.4f, validation loss %.4f (best AP %.4f)",
                    step, metrics["AP"], metrics["AP50"], metrics["loss"], best_ap,
                )  # fmt: skip
                evaluated = True
                running.start_clock()
            if step == num_steps:
                break

            waited = time.perf_counter()
            batch = next(batches)
            running.waited += time.perf_counter() - waited

            lr = schedule.get_last_lr()[0]
            figures = train_step(batch)
            running.add(figures, len(batch.images))
            schedule.step()
            step += 1
            evaluated = False
            bar.update()

            due_save = step % save_every == 0 or step % eval_every == 0 or step == num_steps
            if step % cfg.train.log_every == 0 or due_save:
                means = running.read(step)
                if compile:
                    means["compiled_graphs"] = compiled_graphs()
                metrics_log.write("train", step, means | {"lr": lr})
                bar.set_postfix_str(f"loss {means['loss']:.3f}, {means['pictures_per_s']:.1f} pictures/s")
            if due_save:
                checkpoints.save(step, state())
                running.start_clock()
    finally:
        bar.close()
        metrics_log.close()
    return TrainResult(folder, step, metrics, best_ap)


def evaluate_now(
    cfg: Config,
    model: RetinaNet,
    data: CocoData,
    postprocess: Postprocess,
    criterion: DetectionLoss,
    device: torch.device,
    dtype: torch.dtype,
) -> Evaluation:
    """The model on a validation set, as the config says."""
    return evaluate(
        model,
        eval_loader(cfg, data, pin_memory=device.type == "cuda"),
        data,
        postprocess=postprocess,
        criterion=criterion,
        assignment=cfg.assignment,
        device=device,
        dtype=dtype,
        num_batches=len(eval_plan(cfg, data)),
    )


def per_class_figures(result: Evaluation) -> dict[str, float]:
    return {f"AP/{name}": value for name, value in result.scores.per_class.items()}


def run_length(cfg: Config, num_images: int) -> int:
    """Steps of the whole run: epochs are counted in pictures."""
    if cfg.train.steps is not None:
        return cfg.train.steps
    return math.ceil(cfg.train.epochs * num_images / cfg.train.batch_size)


def epoch_steps(cfg: Config, num_images: int) -> int:
    return math.ceil(num_images / cfg.train.batch_size)
