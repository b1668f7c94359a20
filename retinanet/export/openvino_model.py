"""OpenVINO: convert an ONNX file, write the model, and run it on the CPU."""

from pathlib import Path

import numpy as np
import torch

from retinanet.export.metadata import KEY, Metadata
from retinanet.export.program import INPUTS, OUTPUTS


def write_openvino(onnx_file: Path, path: Path, metadata: Metadata) -> None:
    """Convert an ONNX file and write the model: `path`, an XML file, and its weights beside it, a .bin file."""
    import openvino

    model = openvino.convert_model(str(onnx_file))
    model.set_rt_info(metadata.model_dump_json(), KEY)
    openvino.save_model(model, str(path), compress_to_fp16=False)


class OpenVinoRunner:
    """Runs an OpenVINO model on the CPU; called with images and image_sizes as NumPy arrays."""

    def __init__(self, path: Path):
        import openvino

        # By default, processors that support bfloat16 would use it for layers that are not quantised.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.model = openvino.Core().compile_model(str(path), "CPU", settings)

    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        results = self.model(dict(zip(INPUTS, (images, image_sizes), strict=True)))
        return [results[name] for name in OUTPUTS]
