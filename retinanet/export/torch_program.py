"""torch.export: write a program as a file, and run it with torch alone."""

from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from retinanet.export.metadata import KEY, Metadata


def write_torch_program(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Write a program for torch.export.load."""
    torch.export.save(program, path, extra_files={f"{KEY}.json": metadata.model_dump_json()})


class TorchRunner:
    """Runs a file written by torch.export.save; called with images and image_sizes as NumPy arrays."""

    def __init__(self, path: Path):
        # A guard on the product of two sizes remains, although the program is correct for all sizes.
        self.module = torch.export.load(path).module(check_guards=False)

    @torch.no_grad()
    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in self.module(torch.from_numpy(images), torch.from_numpy(image_sizes))]
