"""Summary of what a run does, logged before its first step."""

import torch
from torch import nn

from retinanet.config import Config
from retinanet.data.build import build_padded_shapes
from retinanet.engine.optimizer import effective_lr, lr_factor
from retinanet.formats.coco import CocoData


def describe(
    cfg: Config, train: CocoData, model: nn.Module, num_steps: int, device: torch.device, dtype: torch.dtype
) -> str:
    """The effective recipe, for a person."""
    boxes = sum(int((~record.is_crowd).sum()) for record in train.records)
    crowds = sum(int(record.is_crowd.sum()) for record in train.records)
    empty = sum(len(record.boxes) == 0 for record in train.records)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    batch, lr = cfg.train.batch_size, effective_lr(cfg.train)
    scaled = f" ({cfg.train.optimizer.lr:g} for {cfg.train.reference_batch_size}, scaled {cfg.train.lr_scaling})"
    padded_shapes = build_padded_shapes(cfg.data)
    groups = sorted({padded_shapes.group(record.height, record.width) for record in train.records})
    shapes = sorted({padded_shapes.padded_shape(group, side) for group in groups for side in cfg.data.resize.shorter})
    shown = ", ".join(f"{h}x{w}" for h, w in shapes[:6]) + (f", ... ({len(shapes)} in all)" if len(shapes) > 6 else "")
    names = ", ".join(train.class_names[:8]) + ("..." if len(train.class_names) > 8 else "")
    last_lr = lr * lr_factor(cfg.train, num_steps - 1, num_steps)
    exact = f", deterministic, seed {cfg.train.seed}" if cfg.train.deterministic else f", seed {cfg.train.seed}"
    rows = {
        "data": f"{len(train.records)} images ({empty} without objects), {boxes} objects, {crowds} crowd regions",
        "classes": f"{len(train.class_names)}: {names}",
        "padded shapes": f"{shown} (height x width)",
        "model": f"{cfg.model.backbone.name}, weights {cfg.model.backbone.weights}, {cfg.model.backbone.norm} norm, "
        f"{total / 1e6:.1f} M parameters, {learning / 1e6:.1f} M of them learn",
        "length": f"{num_steps} steps of {batch} images, {num_steps * batch / len(train.records):.2f} epochs",
        "learning rate": f"{lr:g}{scaled if lr != cfg.train.optimizer.lr else ''}, {cfg.train.optimizer.type}, "
        f"{cfg.train.schedule.type}, warm-up {cfg.train.warmup_steps} steps, {last_lr:.3g} at the end",
        "computes on": f"{device}, {torch.get_num_threads()} threads, {str(dtype).removeprefix('torch.')}{exact}",
    }
    return "\n".join(f"  {name:14} {text}" for name, text in rows.items())
