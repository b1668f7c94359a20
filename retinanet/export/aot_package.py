"""AOTInductor: compile a program to a package for this kind of processor, and run it with torch and torchvision."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  # packages call its NMS
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch.export import ExportedProgram

from retinanet.export.metadata import KEY, Metadata


def write_aot_package(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Compile a program, which takes a minute or more, and write the package."""
    configs: dict[str, Any] = {"aot_inductor.metadata": {KEY: metadata.model_dump_json()}}
    if metadata.padded_shape is None:
        # To choose which loops to vectorise, torch 2.14 simplifies indices with symbolic sizes for many minutes. The
        # convolutions, which take most of the time of a detector, are not affected: they are oneDNN's.
        configs["cpp.simdlen"] = 1
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)


class AotRunner:
    """Runs an AOTInductor package; called with images and image_sizes as NumPy arrays."""

    def __init__(self, path: Path):
        self.package = aoti_load_package(str(path))

    @torch.no_grad()
    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in self.package(torch.from_numpy(images), torch.from_numpy(image_sizes))]
