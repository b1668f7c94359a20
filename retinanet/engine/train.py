"""The training loop, top to bottom."""

import json
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from retinanet.checkpoint import CheckpointFolder, read_checkpoint
from retinanet.config import Config
from retinanet.config_file import config_to_yaml
from retinanet.data.build import eval_loader, eval_plan, load_train_data, load_val_data, train_loader
from retinanet.data.coco import CocoData
from retinanet.detection.assignment import assign
from retinanet.detection.losses import DetectionLoss, Losses, build_loss
from retinanet.detection.postprocess import Postprocess
from retinanet.device import autocast, resolve_device, resolve_precision, set_determinism
from retinanet.engine.evaluate import Evaluation, evaluate, progress
from retinanet.engine.logger import MetricsLog, start_logging
from retinanet.engine.optimizer import build_optimizer, build_schedule
from retinanet.engine.recipe import describe, write_environment
from retinanet.errors import InputError
from retinanet.model.retinanet import RetinaNet, build_model, build_model_for_training
from retinanet.pages.draw import draw_detections

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
BOARD_PICTURES = 4  # validation pictures shown in TensorBoard


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
    folder = Path(output)
    checkpoints = CheckpointFolder(folder / CHECKPOINTS, keep=cfg.train.keep_checkpoints)
    prepare_folder(folder, resume=resume, overwrite=overwrite)
    start_logging(folder / "log.txt")
    set_determinism(cfg.train.deterministic)
    torch.manual_seed(cfg.train.seed)
    device = resolve_device(cfg.device)
    dtype = resolve_precision(device, cfg.train.precision)

    train_data = load_train_data(cfg)
    val_data = load_val_data(cfg, train_data.class_names) if cfg.data.val else None
    num_steps = run_length(cfg, len(train_data.records))
    eval_every = cfg.train.eval_every or epoch_steps(cfg, len(train_data.records))
    save_every = cfg.train.save_every or epoch_steps(cfg, len(train_data.records))

    last = checkpoints.last() if resume else None
    content = read_checkpoint(last) if last else None
    num_classes = len(train_data.class_names)
    # Weights that a checkpoint is about to replace need no download.
    model = build_model(cfg.model, num_classes) if content else build_model_for_training(cfg.model, num_classes)
    model.to(device)
    optimizer = build_optimizer(model, cfg.train)
    schedule = build_schedule(optimizer, cfg.train, num_steps)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    criterion = build_loss(cfg.loss)
    postprocess = Postprocess(**cfg.postprocess.model_dump())
    matching = cfg.assignment.model_dump()

    step, best_ap = 0, math.nan
    if content:
        check_same_run(content, cfg, train_data, last)
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        schedule.load_state_dict(content["schedule"])
        scaler.load_state_dict(content["scaler"])
        torch.set_rng_state(content["rng_state"])
        step, best_ap = content["step"], content["best_ap"]
        log.info("going on from %s, step %d of %d", last, step, num_steps)
    elif resume:
        log.info("%s holds no checkpoint: starting from the beginning", folder)
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
    running = RunningMeans(device)
    model.train()
    batches = train_loader(cfg, train_data, start=step, stop=num_steps, pin_memory=device.type == "cuda")
    bar = progress(None, "training", num_steps, initial=step)
    try:
        while True:
            # At the top, so that a run resumed at this step evaluates what an interrupted one had not.
            if val_data and not evaluated and (step == num_steps or (step and step % eval_every == 0)):
                result = evaluate_now(cfg, model, val_data, postprocess, criterion, device, dtype)
                metrics = result.scores.metrics | result.losses
                metrics_log.write("eval", step, metrics | per_class_figures(result))
                show_pictures(metrics_log, step, result, val_data)
                if not best_ap >= metrics["AP"]:
                    best_ap = metrics["AP"]
                    checkpoints.mark_best(step)
                log.info(
                    "step %d: AP %.4f, AP50 %.4f, validation loss %.4f (best AP %.4f)",
                    step, metrics["AP"], metrics["AP50"], metrics["loss"], best_ap,
                )  # fmt: skip
                evaluated = True
            if step == num_steps:
                break

            waited = time.perf_counter()
            batch = next(batches).to(device)
            running.waited += time.perf_counter() - waited

            anchors = torch.cat(model.anchors(*batch.images.shape[-2:], device))
            assignment = assign(anchors, batch.targets, **matching)
            num_positive = assignment.positive.sum().float().clamp(min=1)
            with autocast(device, dtype):
                predictions = model(batch.images, batch.image_sizes)
            losses = criterion(predictions, assignment, batch.targets, num_positive)
            scaler.scale(losses.total).backward()
            scaler.unscale_(optimizer)
            grad_norm = clip(model, cfg.train.clip_norm)
            running.add(losses, grad_norm, num_positive, len(batch.images))
            lr = schedule.get_last_lr()[0]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            step += 1
            evaluated = False
            bar.update()

            due_save = step % save_every == 0 or step % eval_every == 0 or step == num_steps
            if step % cfg.train.log_every == 0 or due_save:
                figures = running.read(step)
                metrics_log.write("train", step, figures | {"lr": lr})
                bar.set_postfix_str(f"loss {figures['loss']:.3f}, {figures['pictures_per_s']:.1f} pictures/s")
            if due_save:
                checkpoints.save(step, state())
    finally:
        bar.close()
        metrics_log.close()
    return TrainResult(folder, step, metrics, best_ap)


class RunningMeans:
    """Figures of the steps since the last reading, kept on the device: reading them is the one wait of the loop."""

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(4, device=device)
        self._start()

    def _start(self) -> None:
        self._sums.zero_()
        self._steps = 0
        self._pictures = 0
        self._since = time.perf_counter()
        self.waited = 0.0  # seconds spent waiting for data

    def add(self, losses: Losses, grad_norm: Tensor, num_positive: Tensor, pictures: int) -> None:
        values = (losses.classification.detach(), losses.box_regression.detach(), grad_norm.float(), num_positive)
        self._sums += torch.stack(values)
        self._steps += 1
        self._pictures += pictures

    def read(self, step: int) -> dict[str, float]:
        """Means a step, and begin anew.

        Raises:
            InputError: a loss or gradient is not finite, so the run cannot go on.
        """
        class_loss, box_loss, grad_norm, num_positive = (self._sums / self._steps).tolist()
        if not math.isfinite(class_loss + box_loss + grad_norm):
            raise InputError(
                f"step {step}: training diverged: class loss {class_loss:g}, box loss {box_loss:g}, gradient norm "
                f"{grad_norm:g} over the last {self._steps} steps; lower train.optimizer.lr, raise train.warmup_steps, "
                "or set train.clip_norm; the last checkpoint is from before"
            )
        seconds = time.perf_counter() - self._since
        figures = {
            "loss": class_loss + box_loss,
            "class_loss": class_loss,
            "box_loss": box_loss,
            "grad_norm": grad_norm,
            "positive_anchors": num_positive,
            "pictures_per_s": self._pictures / seconds,
            "data_share": self.waited / seconds,
        }
        self._start()
        return figures


def clip(model: nn.Module, max_norm: float | None) -> Tensor:
    """Total gradient norm before clipping, on the device."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if max_norm is None:
        return get_total_norm([parameter.grad for parameter in parameters])
    return clip_grad_norm_(parameters, max_norm)


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


def show_pictures(metrics_log: MetricsLog, step: int, result: Evaluation, data: CocoData) -> None:
    """The first validation pictures with what was found on them."""
    from retinanet.data.image import read_image

    for index in range(min(BOARD_PICTURES, len(data.records))):
        image = read_image(data.records[index].path, max_pixels=2**62)
        drawn = draw_detections(image, result.detections[index], data.class_names)
        metrics_log.picture(f"validation/{index}", step, drawn)


def prepare_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the run folder, or refuse one that holds a run without a word on what to do with it."""
    run_files = ("config.yaml", "metrics.jsonl", CHECKPOINTS)
    holds_run = any((folder / name).exists() for name in run_files)
    if holds_run and overwrite:
        for name in (*run_files, "environment.json", "log.txt", "tensorboard"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif holds_run and not resume:
        raise InputError(
            f"{folder}: holds a run; go on with --resume, replace it with --overwrite, or name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}; name another folder") from None


def run_length(cfg: Config, num_images: int) -> int:
    """Steps of the whole run: epochs are counted in pictures."""
    if cfg.train.steps is not None:
        return cfg.train.steps
    return math.ceil(cfg.train.epochs * num_images / cfg.train.batch_size)


def epoch_steps(cfg: Config, num_images: int) -> int:
    return math.ceil(num_images / cfg.train.batch_size)


def self_description(cfg: Config, data: CocoData) -> dict[str, Any]:
    """What makes a checkpoint usable by itself. JSON text, since `weights_only` loading refuses records."""
    return {
        "config": cfg.model_dump_json(),
        "class_names": list(data.class_names),
        "category_ids": list(data.category_ids),
    }


def check_same_run(content: dict[str, Any], cfg: Config, data: CocoData, path: Path | None) -> None:
    """A run goes on with the same network, classes and schedule it began with."""
    if content["class_names"] != list(data.class_names):
        raise InputError(f"{path}: was trained on {content['class_names'][:10]}, not on {list(data.class_names)[:10]}")
    before, now = json.loads(content["config"]), json.loads(cfg.model_dump_json())
    for section in ("model", "train"):
        changed = [
            key for key in now[section] if before[section].get(key) != now[section][key] and key not in _MAY_CHANGE
        ]
        if changed:
            key = changed[0]
            raise InputError(
                f"{path}: cannot go on with another {section}.{key}: it was {before[section].get(key)}, now "
                f"{now[section][key]}; keep it, or start a new run"
            )


_MAY_CHANGE = {"log_every", "save_every", "eval_every", "keep_checkpoints", "weights", "num_classes"}
