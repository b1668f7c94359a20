"""OpenVINO: convert a program through ONNX, write it, and run it on the CPU."""

import tempfile
from pathlib import Path

import numpy as np
from torch.export import ExportedProgram

from retinanet.export.metadata import KEY, Metadata
from retinanet.export.onnx_file import write_onnx
from retinanet.export.program import INPUTS, OUTPUTS


def write_openvino(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    """Convert a program and write the model: `path`, an XML file, and its weights beside it, a .bin file."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        write_onnx(program, Path(folder) / "program.onnx", metadata)
        model = openvino.convert_model(str(Path(folder) / "program.onnx"))
    model.set_rt_info(metadata.model_dump_json(), KEY)
    openvino.save_model(model, str(path), compress_to_fp16=False)


class OpenVinoRunner:
    """Runs an OpenVINO model on the CPU in float32; called with images and image_sizes as NumPy arrays."""

    def __init__(self, path: Path):
        import openvino

        # Processors with support for bfloat16 would use it.
        self.model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        results = self.model(dict(zip(INPUTS, (images, image_sizes), strict=True)))
        return [results[name] for name in OUTPUTS]
