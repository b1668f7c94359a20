"""ONNX: write a program as a file, and run it with onnxruntime."""

from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from retinanet.export.metadata import KEY, Metadata
from retinanet.export.program import INPUTS, OUTPUTS

OPSET = 18


def write_onnx(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Convert a program to ONNX and write it to one file."""
    converted = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=INPUTS, output_names=OUTPUTS, verbose=False
    )
    assert converted is not None
    converted.model.metadata_props[KEY] = metadata.model_dump_json()
    converted.save(str(path))


class OnnxRunner:
    """Runs an ONNX file with onnxruntime on the CPU; called with images and image_sizes as NumPy arrays."""

    def __init__(self, path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # by itself, onnxruntime ignores OMP_NUM_THREADS
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        return self.session.run(OUTPUTS, dict(zip(INPUTS, (images, image_sizes), strict=True)))
