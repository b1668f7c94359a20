"""Checkpoints for tests."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.config import Config, TrainConfig
from retinanet.config.load import load_config
from retinanet.model.retinanet import build_model


def checkpoint_of(step: int = 1, **state: Any) -> Checkpoint:
    """A checkpoint of a default config with the given parts of the state."""
    return Checkpoint(
        config=Config(train=TrainConfig(steps=1)),
        class_names=("cat", "dog"),
        category_ids=(3, 7),
        step=step,
        state=state,
    )


def overdetecting_config() -> Config:
    """The config of a small network that detects objects everywhere, even without training."""
    overrides = ["data.resize.shorter=64", "data.resize.longer=128", "model.channels=64", "model.prior=0.4"]
    overrides += ["device=cpu", "inference.precision=fp32", "model.backbone.norm=frozen"]
    return load_config("quickstart", overrides)


def untrained_checkpoint(folder: Path, shapes: Path) -> Path:
    """Save a checkpoint of an untrained network for the shapes dataset, as training would write it."""
    overrides = ["model.channels=64", "model.head_convs=1", "data.resize.shorter=64", "data.resize.longer=96"]
    overrides += ["device=cpu", "train.precision=fp32", "data.workers=0"]
    overrides += [f"data.val.images={shapes / 'val'}", f"data.val.annotations={shapes / 'val.json'}"]
    cfg = load_config("quickstart", overrides)
    categories = json.loads((shapes / "val.json").read_text())["categories"]
    categories.sort(key=lambda category: category["id"])
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        config=cfg,
        class_names=tuple(category["name"] for category in categories),
        category_ids=tuple(category["id"] for category in categories),
        step=1,
        state={"model": build_model(cfg.model, len(categories)).state_dict()},
    )
    return CheckpointFolder(folder, keep=1).save(checkpoint)


def filled(step: int, value: float | None = None, *, size: int = 1000) -> Checkpoint:
    """A checkpoint whose weights all have one value, by default the step number."""
    return checkpoint_of(step, model={"weight": torch.full((size,), float(step if value is None else value))})


def names(folder: Path) -> list[str]:
    """Names of all files in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def step_files(*steps: int) -> list[str]:
    """Names of the checkpoint and checksum files of some steps, sorted."""
    return sorted(name for step in steps for name in (f"step_{step:08d}.pt", f"step_{step:08d}.pt.sha256"))


def flip_a_bit(path: Path) -> None:
    """Damage the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    """Truncate a file."""
    path.write_bytes(path.read_bytes()[:1000])


class GatedFolder(CheckpointFolder):
    """A checkpoint folder that waits for its gate to be set before it writes."""

    def __init__(self, folder: Path, *, keep: int = 5):
        super().__init__(folder, keep=keep)
        self.reached = threading.Event()
        self.gate = threading.Event()

    def save(self, checkpoint):
        self.reached.set()
        assert self.gate.wait(timeout=60)
        return super().save(checkpoint)


def forbid_symlinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make creating symbolic links fail, as on exFAT or Google Drive."""

    def refused(*arguments, **keywords):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "symlink", refused)
