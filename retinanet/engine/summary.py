"""Summary of the effective settings, logged before the first step of a run."""

import logging

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from retinanet.config import ModelConfig, SGDConfig, TimmConfig, TrainConfig
from retinanet.data.build import images_per_epoch
from retinanet.engine.forecast import LONG_RUN, ShapeShares, fitting_config, forecast, shape_shares
from retinanet.engine.schedule import effective_lr, lr_factor
from retinanet.engine.setup import Run
from retinanet.engine.state import TrainState
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.console import format_bytes, format_duration
from retinanet.runtime.distributed import world_size

log = logging.getLogger(__name__)


def announce(run: Run) -> None:
    """Log the summary of a run before its first step; on a CPU, warn if the run would take very long."""
    shares = shape_shares(run.cfg, run.train_data)
    rows = run_summary(run, shares)
    cfg, steps, warning = run.cfg, run.num_steps - run.state.step, None
    if run.device.type == "cpu" and steps:
        expected = forecast(cfg, run.state.model, shares, steps, run.device, run.dtype)
        duration = format_duration(expected.seconds)
        rows["duration"] = f"roughly {duration} for {steps} steps, forecast from one forward pass"
        if expected.seconds > LONG_RUN:
            height, width = expected.shape
            warning = (
                f"on this CPU, this run would take roughly {duration}: {steps} "
                f"steps of {cfg.train.batch_size} images padded to about {height}x{width} pixels. Use a GPU, or start "
                f"from a config made for a CPU: {fitting_config(run.train_data, run.device, run.dtype)}"
            )
    log.info("run %s\n%s", run.folder, "\n".join(f"  {name:14} {text}" for name, text in rows.items()))
    if warning:
        log.warning("%s", warning)


def run_summary(run: Run, shares: ShapeShares) -> dict[str, str]:
    """Describe the data, model, schedule and device that result from the config, by topic."""
    cfg, train, model, num_steps = run.cfg, run.train_data, run.state.model, run.num_steps
    boxes = int((~train.is_crowd).sum())
    crowds = int(train.is_crowd.sum())
    empty = int((np.diff(train.box_start) == 0).sum())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    batch, lr = cfg.train.batch_size, effective_lr(cfg.train)
    epochs = num_steps * batch / images_per_epoch(cfg, train)
    scaled = (
        f" ({cfg.train.optimizer.lr:g} for a batch of {cfg.train.reference_batch_size}, {cfg.train.lr_scaling} scaling)"
    )
    shapes = sorted(shares)
    shown = ", ".join(f"{h}x{w}" for h, w in shapes[:6]) + (
        f", ... ({len(shapes)} in total)" if len(shapes) > 6 else ""
    )
    names = ", ".join(train.class_names[:8]) + ("..." if len(train.class_names) > 8 else "")
    last_lr = lr * lr_factor(cfg.train, num_steps - 1, num_steps)
    deterministic = ", deterministic" if cfg.train.deterministic else ""
    in_channels = cfg.model.in_channels
    channels = "" if in_channels == 3 else f", {in_channels} channel(s)"
    frozen = cfg.train.freeze_backbone_steps
    processes = f"{world_size()} processes of " if world_size() > 1 else ""
    described = (
        cfg.custom.model
        or f"{cfg.model.backbone.name}{channels}, weights {cfg.model.backbone.weights}, {norm_of(model, cfg.model)}"
    )
    custom = {"custom parts": ", ".join(cfg.custom.described)} if cfg.custom.described else {}
    return custom | {
        "data": f"{len(train)} images ({empty} without objects), {boxes} objects, {crowds} crowd regions",
        "classes": f"{len(train.class_names)}: {names}",
        "padded shapes": f"{shown} (height x width; mixed batches use the largest height and width)",
        "model": f"{described}, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained"
        + (f", the backbone only after step {frozen}" if frozen else ""),
        "length": f"{num_steps} steps of {batch} images, {epochs:.2f} epochs",
        "learning rate": f"{lr:g}{scaled if lr != cfg.train.optimizer.lr else ''}, "
        f"{describe_backbone_lrs(run.state)}{cfg.train.optimizer.type}, "
        f"{cfg.train.schedule.type}, warm-up {cfg.train.warmup_steps} steps, {last_lr:.3g} at the end",
        "evaluation": f"{len(run.val_data)} images, every {run.eval_every} steps ({run.evaluations_left} evaluation(s))"
        if run.val_data
        else "none: data.val is empty",
        "checkpoints": f"every {run.save_every} steps, {format_bytes(checkpoint_bytes(run.state, cfg.train))} each, "
        f"{kept(cfg.train)}",
        "device": f"{processes}{run.device}, {torch.get_num_threads()} threads, "
        f"{str(run.dtype).removeprefix('torch.')}{deterministic}, seed {cfg.train.seed}",
    }


def norm_of(model: RetinaNet, cfg: ModelConfig) -> str:
    """Describe the norms of the backbone. timm's networks have their own, of which only batch norms are configured."""
    backbone = cfg.backbone
    if isinstance(backbone, TimmConfig) and not any(
        isinstance(module, _BatchNorm) for module in model.backbone.modules()
    ):
        return "no batch norm"
    return f"{backbone.norm} norm"


def describe_backbone_lrs(state: TrainState) -> str:
    """Describe the full learning rates of the backbone, first stage first; empty if they equal that of the head."""
    lrs = dict.fromkeys(group["initial_lr"] for group in state.optimizer.param_groups[2:])
    return f"backbone {', '.join(f'{lr:.3g}' for lr in lrs)}, " if lrs else ""


def kept(cfg: TrainConfig) -> str:
    """Describe which checkpoints of a run are kept."""
    return f"of which the best and the last {cfg.keep_checkpoints} are kept"


def checkpoint_bytes(state: TrainState, cfg: TrainConfig) -> int:
    """Size of a checkpoint, computed from its tensors: weights, moving average and optimizer state."""
    model = sum(tensor.nbytes for tensor in state.model.state_dict().values())
    trained = sum(weight.nbytes for weight in state.model.parameters() if weight.requires_grad)
    per_weight = (cfg.optimizer.momentum > 0) if isinstance(cfg.optimizer, SGDConfig) else 2
    return model * (2 if state.ema else 1) + trained * per_weight
