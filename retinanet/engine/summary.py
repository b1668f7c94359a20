"""Summary of the effective recipe, logged before the first step of a run."""

import numpy as np
import torch
from torch import nn

from retinanet.config import Config
from retinanet.data.build import build_padded_shapes
from retinanet.engine.schedule import effective_lr, lr_factor
from retinanet.formats.dataset import Dataset


def run_summary(
    cfg: Config, train: Dataset, model: nn.Module, num_steps: int, device: torch.device, dtype: torch.dtype
) -> str:
    """Describe the data, model, schedule and device that result from the config, one line per topic."""
    boxes = int((~train.is_crowd).sum())
    crowds = int(train.is_crowd.sum())
    empty = int((np.diff(train.box_start) == 0).sum())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    batch, lr = cfg.train.batch_size, effective_lr(cfg.train)
    scaled = (
        f" ({cfg.train.optimizer.lr:g} for a batch of {cfg.train.reference_batch_size}, {cfg.train.lr_scaling} scaling)"
    )
    padded_shapes = build_padded_shapes(cfg.data)
    buckets = {padded_shapes.bucket(height, width) for height, width in train.sizes.tolist()}
    shapes = sorted(
        {padded_shapes.padded_shape(bucket, side) for bucket in buckets for side in cfg.data.resize.shorter}
    )
    shown = ", ".join(f"{h}x{w}" for h, w in shapes[:6]) + (
        f", ... ({len(shapes)} in total)" if len(shapes) > 6 else ""
    )
    names = ", ".join(train.class_names[:8]) + ("..." if len(train.class_names) > 8 else "")
    last_lr = lr * lr_factor(cfg.train, num_steps - 1, num_steps)
    deterministic = ", deterministic" if cfg.train.deterministic else ""
    rows = {
        "data": f"{len(train)} images ({empty} without objects), {boxes} objects, {crowds} crowd regions",
        "classes": f"{len(train.class_names)}: {names}",
        "padded shapes": f"{shown} (height x width; a mixed batch takes the largest of each)",
        "model": f"{cfg.model.backbone.name}, weights {cfg.model.backbone.weights}, {cfg.model.backbone.norm} norm, "
        f"{total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained",
        "length": f"{num_steps} steps of {batch} images, {num_steps * batch / len(train):.2f} epochs",
        "learning rate": f"{lr:g}{scaled if lr != cfg.train.optimizer.lr else ''}, {cfg.train.optimizer.type}, "
        f"{cfg.train.schedule.type}, warm-up {cfg.train.warmup_steps} steps, {last_lr:.3g} at the end",
        "device": f"{device}, {torch.get_num_threads()} threads, {str(dtype).removeprefix('torch.')}{deterministic}, "
        f"seed {cfg.train.seed}",
    }
    return "\n".join(f"  {name:14} {text}" for name, text in rows.items())
