"""Set up a training run from its config and run folder, and check that the two are compatible."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torchvision.transforms import v2

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.config import Config
from retinanet.data.build import (
    build_padded_shapes,
    check_batch_size,
    images_per_epoch,
    load_train_data,
    load_val_data,
)
from retinanet.data.custom import use_custom_data
from retinanet.detection.build import build_assignment
from retinanet.engine.best import check_measurable
from retinanet.engine.callbacks import Callbacks
from retinanet.engine.custom_parts import NO_PARTS, CustomParts, Loss
from retinanet.engine.profiler import check_profile
from retinanet.engine.run_files import CHECKPOINTS, Resume, check_folder
from retinanet.engine.run_folder import check_same_parts, check_same_run, clear_folder, how_to_extend, open_folder
from retinanet.engine.schedule import default_interval, run_length
from retinanet.engine.state import TrainState, build_state
from retinanet.engine.step import TrainStep
from retinanet.errors import InputError
from retinanet.formats.checks.plausibility import check_overlap
from retinanet.formats.dataset import Dataset
from retinanet.formats.findings import report
from retinanet.inference.views import build_views
from retinanet.losses.build import build_criterion
from retinanet.losses.configured_weights import with_class_weights
from retinanet.losses.custom import check_loss
from retinanet.model.backbone import build_backbone
from retinanet.model.detector import Detector, with_activation
from retinanet.model.retinanet import check_padded_shapes, is_retinanet
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
    loss: Loss | None = None  # passed in Python; None: that of the config
    callbacks: Callbacks | None = None

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
    cfg: Config,
    folder: Path,
    device: torch.device,
    *,
    parts: CustomParts = NO_PARTS,
    resume: Resume,
    overwrite: bool,
    profile: bool,
) -> Run:
    """Load the data, build or restore the training state, and open the run folder.

    Args:
        cfg: with the names of `parts`; see `CustomParts.recorded_in`.
        parts: what was passed in Python.
        resume, overwrite, profile: see `train`.

    Raises:
        InputError: the user's input is invalid; an existing run in the folder is left unchanged.
    """
    on_main(lambda: check_folder(folder, resume=resume, overwrite=overwrite))
    if resume:
        on_main(lambda: check_same_parts(folder, cfg))
    check_norm(cfg)
    check_backbone(cfg, parts.model)
    check_batch_size(cfg)
    cfg.model.require_statistics()
    has_validation = cfg.data.has_validation or parts.val_dataset is not None
    if cfg.train.early_stop and not has_validation:
        raise InputError(
            "train.early_stop needs evaluations, but data.val is empty; set data.val or data.val_fraction, or "
            "early_stop=null"
        )
    dtype = resolve_precision(device, cfg.train.precision)
    compile = resolve_compile(device, cfg.train.compile)
    if parts.model is not None and not is_retinanet(parts.model):
        if cfg.train.compile is True:
            raise InputError(f"train.compile: {cfg.custom.model} is not compiled; call torch.compile in the model")
        compile = False

    train_data = load_train_data(cfg) if parts.dataset is None else use_custom_data(cfg, parts.dataset, None)
    cfg = cfg.model_copy(update={"loss": with_class_weights(cfg.loss, train_data.object_counts())})
    val_data = None
    if parts.val_dataset is not None:
        val_data = use_custom_data(cfg, parts.val_dataset, train_data.class_names)
    elif has_validation:
        val_data = load_val_data(cfg, train_data.class_names)
    if parts.model is not None:
        parts.model.to(device)
        cfg = with_activation(cfg, parts.model, len(train_data.class_names))
    if parts.loss is not None:
        check_loss(parts.loss, background_logit=cfg.model.has_background_logit)
    if val_data:
        if train_data.source is None and val_data.source is None:  # other images have no comparable names
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
        custom_model=parts.model,
    )
    if profile:
        check_profile(num_steps - state.step)
    criterion = build_criterion(cfg.loss, parts.loss, num_classes=len(train_data.class_names), compile=compile)
    if isinstance(criterion, nn.Module):
        criterion.to(device)
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
        loss=parts.loss,
    )


def check_backbone(cfg: Config, model: Detector | None = None) -> None:
    """Check that the backbone can be built and accepts the padded shapes of the config. It allocates no weights.

    Args:
        model: model passed in Python; its backbone is checked if it is a `RetinaNet`.

    Raises:
        InputError: see `build_backbone` and `check_padded_shapes`.
    """
    if model is None:
        with torch.device("meta"):
            backbone = build_backbone(cfg.model.backbone, in_channels=cfg.model.in_channels, levels=cfg.model.levels)
    elif is_retinanet(model):
        backbone = model.backbone
    else:
        return
    padded_shapes = build_padded_shapes(cfg.data)
    shapes = [shape for shorter in cfg.data.resize.shorter for shape in padded_shapes.all_shapes(shorter)]
    shapes += build_views(cfg).all_shapes()  # those of evaluation
    check_padded_shapes(backbone, shapes, name=cfg.model.backbone.name)


def check_norm(cfg: Config) -> None:
    """Reject batch norm with several processes unless the config allows it; warn if accumulation changes its results.

    Raises:
        InputError: each process would normalise with statistics computed from its own images only.
    """
    if cfg.custom.model:
        return
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
