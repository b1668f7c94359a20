"""AOTInductor: compile a program to a package for this kind of processor, and run it with torch and torchvision."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  # packages call its NMS
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch._inductor import config as inductor_config
from torch.export import ExportedProgram

from retinanet.export.metadata import KEY, Metadata, read_metadata

# To choose which loops to vectorise, torch 2.14 simplifies indices with symbolic sizes for many minutes. Convolutions,
# which take most of the time of a detector, are not affected: oneDNN computes them.
WITHOUT_VECTORS = {"cpp.simdlen": 1}


def write_aot_package(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Compile a program, which takes a minute or more, and write the package."""
    metadata_config: dict[str, Any] = {"aot_inductor.metadata": {KEY: metadata.model_dump_json()}}
    aoti_compile_and_package(
        program, package_path=str(path), inductor_configs=metadata_config | _vector_config(metadata)
    )


def _vector_config(metadata: Metadata) -> dict[str, int]:
    return WITHOUT_VECTORS if metadata.padded_shape is None else {}


class AotRunner:
    """Runs an AOTInductor package; called with images and image_sizes as NumPy arrays."""

    def __init__(self, path: Path):
        # With the same setting, torch does not warn that a package lacks the vector instructions of this processor.
        with inductor_config.patch(_vector_config(read_metadata(path))):
            self.package = aoti_load_package(str(path))

    @torch.no_grad()
    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in self.package(torch.from_numpy(images), torch.from_numpy(image_sizes))]
