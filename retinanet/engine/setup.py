"""Set up a training run from its config and run folder, and check that the two are compatible."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torchvision.transforms import v2

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.config import Config
from retinanet.data.build import check_batch_size, images_per_epoch, load_train_data, load_val_data
from retinanet.detection.build import build_assignment
from retinanet.engine.best import check_measurable
from retinanet.engine.profiler import check_profile
from retinanet.engine.run_files import CHECKPOINTS, Resume, check_folder
from retinanet.engine.run_folder import check_same_run, clear_folder, how_to_extend, open_folder
from retinanet.engine.schedule import default_interval, run_length
from retinanet.engine.state import TrainState, build_state
from retinanet.engine.step import TrainStep
from retinanet.errors import InputError
from retinanet.formats.checks.plausibility import check_overlap
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import report
from retinanet.losses.build import build_loss
from retinanet.losses.class_weights import with_class_weights
from retinanet.runtime.device import resolve_compile, resolve_precision
from retinanet.runtime.distributed import is_main, on_main, world_size

log = logging.getLogger(__name__)

ALL_STAGES = 5  # with this many `frozen_stages`, no norm of the backbone is in training mode


class Run(NamedTuple):
    """Everything the training loop needs."""

    cfg: Config
    folder: Path
    device: torch.device
    dtype: torch.dtype
    compile: bool
    train_data: Dataset
    val_data: Dataset | None
    num_steps: int
    eval_every: int  # number of steps between evaluations
    save_every: int  # number of steps between checkpoints
    checkpoints: CheckpointFolder
    resumed: bool  # whether the run continues from a checkpoint
    state: TrainState
    train_step: TrainStep
    extra_transforms: Sequence[v2.Transform] = ()  # for training images, after those of the config

    def is_due(self, every: int) -> bool:
        """Whether the current step is a multiple of `every` or the last step of the run."""
        step = self.state.step
        return step > 0 and (step % every == 0 or step == self.num_steps)

    @property
    def evaluations_left(self) -> int:
        """Number of evaluations until the end of the run, including one after the current step."""
        if not self.val_data:
            return 0
        earlier = max(self.state.step - 1, 0) // self.eval_every
        return self.num_steps // self.eval_every - earlier + (self.num_steps % self.eval_every > 0)


def set_up_run(
    cfg: Config, folder: Path, device: torch.device, *, resume: Resume, overwrite: bool, profile: bool
) -> Run:
    """Load the data, build or restore the training state, and open the run folder.

    Args:
        resume, overwrite, profile: see `train`.

    Raises:
        InputError: the user's input is invalid; an existing run in the folder is left unchanged.
    """
    on_main(lambda: check_folder(folder, resume=resume, overwrite=overwrite))
    check_norm(cfg)
    check_batch_size(cfg)
    if cfg.train.early_stop and not cfg.data.has_validation:
        raise InputError(
            "train.early_stop needs evaluations, but data.val is empty; set data.val or data.val_fraction, or "
            "early_stop=null"
        )
    dtype = resolve_precision(device, cfg.train.precision)
    compile = resolve_compile(device, cfg.train.compile)

    train_data = load_train_data(cfg)
    cfg = cfg.model_copy(update={"loss": with_class_weights(cfg.loss, train_data.object_counts())})
    val_data = load_val_data(cfg, train_data.class_names) if cfg.data.has_validation else None
    if val_data:
        report(check_overlap(train_data, val_data))
        check_measurable(cfg.train.best_metric, val_data, early_stop=cfg.train.early_stop)
    epoch = images_per_epoch(cfg, train_data)
    num_steps, interval = run_length(cfg.train, epoch), default_interval(cfg.train, epoch)

    checkpoints = CheckpointFolder(folder / CHECKPOINTS, keep=cfg.train.keep_checkpoints)
    last = on_main(lambda: checkpoints.last_intact()[0]) if resume else None
    resume_from = (last, read_checkpoint(last)) if last else None
    order_changed = None
    if resume_from:
        order_changed = check_same_run(*resume_from, cfg, train_data, folder=folder)
        num_steps = max(num_steps, resume_from[1].step)  # with fewer images, the run may be past its end
    state = build_state(
        cfg,
        train_data,
        num_steps=num_steps,
        device=device,
        dtype=dtype,
        compile=compile,
        resume_from=resume_from,
    )
    if profile:
        check_profile(num_steps - state.step)
    criterion = build_loss(cfg.loss, num_classes=len(train_data.class_names), compile=compile)
    train_step = TrainStep(
        state.model,
        criterion,
        state.optimizer,
        state.scaler,
        assign=build_assignment(cfg.assignment),
        dtype=dtype,
        clip_norm=cfg.train.clip_norm,
        compile=compile,
        guard=state.guard,
        ema=state.ema,
        freeze=state.freeze,
    )
    if overwrite and is_main():
        clear_folder(folder)  # only now, so that invalid input does not delete the old run
    on_main(lambda: open_folder(folder, cfg))
    if last:
        log.info("resuming from %s, step %d of %d", last, state.step, num_steps)
        if order_changed:
            log.warning("%s", order_changed)
        if state.step == num_steps:
            log.info("this run has finished; %s", how_to_extend(last))
    elif resume:
        log.info("%s has no checkpoint: starting from the beginning", folder)
    if cfg.train.warmup_steps > num_steps / 2:
        log.warning("train.warmup_steps %d is more than half of the %d steps", cfg.train.warmup_steps, num_steps)
    if cfg.train.batch_size > len(train_data):
        log.warning(
            "train.batch_size %d is greater than the number of training images (%d): images repeat within a batch",
            cfg.train.batch_size, len(train_data),
        )  # fmt: skip
    return Run(
        cfg=cfg,
        folder=folder,
        device=device,
        dtype=dtype,
        compile=compile,
        train_data=train_data,
        val_data=val_data,
        num_steps=num_steps,
        eval_every=cfg.train.eval_every or interval,
        save_every=cfg.train.save_every or interval,
        checkpoints=checkpoints,
        resumed=resume_from is not None,
        state=state,
        train_step=train_step,
    )


def check_norm(cfg: Config) -> None:
    """Reject batch norm with several processes unless the config allows it; warn if accumulation changes its results.

    Raises:
        InputError: each process would normalise with statistics computed from its own images only.
    """
    backbone, head_norm, accumulate = cfg.model.backbone, cfg.model.head_norm, cfg.train.accumulate
    local = {"model.backbone.norm": (backbone.norm, "sync"), "model.head_norm": (head_norm, "sync_per_level")}
    for key, (norm, synchronised) in local.items():
        if norm in ("batch", "batch_per_level") and world_size() > 1 and not cfg.train.allow_local_norm:
            others = "group or frozen" if key == "model.backbone.norm" else "group or none"
            raise InputError(
                f"{key} is {norm} on {world_size()} processes: each would normalise with the statistics of its own few "
                f"images, and results would depend on the number of processes; set {key} to {synchronised} (shared "
                f"statistics), {others}, or train.allow_local_norm=true"
            )
    if accumulate > 1 and backbone.norm in ("batch", "sync") and backbone.frozen_stages < ALL_STAGES:
        log.warning(
            "train.accumulate is %d and model.backbone.norm is %s: each micro-batch is normalised with its own "
            "statistics, so gradients differ from those of the whole batch; use norm group or frozen to avoid this",
            accumulate,
            backbone.norm,
        )
    if accumulate > 1 and head_norm in ("batch_per_level", "sync_per_level") and cfg.model.head_convs:
        log.warning(
            "train.accumulate is %d and model.head_norm is %s: each micro-batch is normalised with its own "
            "statistics, so gradients differ from those of the whole batch; use head_norm group or none to avoid this",
            accumulate,
            head_norm,
        )
