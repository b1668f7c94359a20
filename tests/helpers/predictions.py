"""Checkpoints, images and output folders for tests of `predict`."""

from pathlib import Path

import torch
from torchvision.io import write_png

from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.model.retinanet import build_model
from tests.helpers.checkpoints import overdetecting_config

CLASS_NAMES = ("small one", "Größe")
RECORDS = {"predictions.jsonl", ".predict.lock"}  # contain times of files, and the process


def save_overdetecting_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Save the checkpoint of a network with random weights that detects objects everywhere."""
    torch.manual_seed(seed)
    cfg = overdetecting_config()
    state = {"model": build_model(cfg.model, len(CLASS_NAMES)).state_dict()}
    return CheckpointFolder(folder, keep=1).save(Checkpoint(cfg, CLASS_NAMES, (3, 5), 1, state))


def write_noise(file: Path, *, seed: int, height: int = 60, width: int = 80) -> Path:
    """Write a PNG of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_png(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator), str(file))
    return file


def write_noise_images(folder: Path, names: list[str]) -> Path:
    """Write an image for each name into a folder, and return the folder."""
    for seed, name in enumerate(names):
        write_noise(folder / name, seed=seed)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The content of all files in an output folder, apart from the records of the process."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in RECORDS]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
