"""What a run really does, said before it starts and kept beside its results."""

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retinanet import __version__
from retinanet.config import Config
from retinanet.data.build import build_canvases
from retinanet.data.coco import CocoData
from retinanet.distributed import launch_id
from retinanet.engine.optimizer import effective_lr, lr_factor

PACKAGES = ("torch", "torchvision", "torchcodec", "faster-coco-eval", "pycocotools", "pydantic", "numpy", "pillow")


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
    canvases = build_canvases(cfg.data)
    groups = sorted({canvases.group(record.height, record.width) for record in train.records})
    shapes = sorted({canvases.canvas(group, side) for group in groups for side in cfg.data.resize.shorter})
    shown = ", ".join(f"{h}x{w}" for h, w in shapes[:6]) + (f", ... ({len(shapes)} in all)" if len(shapes) > 6 else "")
    names = ", ".join(train.class_names[:8]) + ("..." if len(train.class_names) > 8 else "")
    last_lr = lr * lr_factor(cfg.train, num_steps - 1, num_steps)
    exact = f", deterministic, seed {cfg.train.seed}" if cfg.train.deterministic else f", seed {cfg.train.seed}"
    rows = {
        "data": f"{len(train.records)} pictures ({empty} without objects), {boxes} objects, {crowds} crowd regions",
        "classes": f"{len(train.class_names)}: {names}",
        "padded shapes": f"{shown} (height x width)",
        "model": f"{cfg.model.backbone}, weights {cfg.model.weights}, {cfg.model.norm} norm, "
        f"{total / 1e6:.1f} M parameters, {learning / 1e6:.1f} M of them learn",
        "length": f"{num_steps} steps of {batch} pictures, {num_steps * batch / len(train.records):.2f} epochs",
        "learning rate": f"{lr:g}{scaled if lr != cfg.train.optimizer.lr else ''}, {cfg.train.optimizer.type}, "
        f"{cfg.train.schedule.type}, warm-up {cfg.train.warmup_steps} steps, {last_lr:.3g} at the end",
        "computes on": f"{device}, {torch.get_num_threads()} threads, {str(dtype).removeprefix('torch.')}{exact}",
    }
    return "\n".join(f"  {name:14} {text}" for name, text in rows.items())


def environment() -> dict[str, Any]:
    """Versions, hardware and source of a run, as plain values."""
    packages = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed as a package"
    return {
        "retinanet": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
        "launch": launch_id(),
    }


def write_environment(file: Path) -> None:
    file.write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")


def _git_commit() -> str | None:
    """Of the source tree, with a mark where it has changes; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
