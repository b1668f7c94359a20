"""Metadata of an exported file: classes, resizing, thresholds. Every format stores it as JSON."""

import json
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict

from retinanet.errors import InputError

Nms = Literal["inside", "outside"]
Precision = Literal["float32", "int8"]
Format = Literal["onnx", "torch-export", "aot", "openvino"]

KEY = "retinanet"  # under which the formats store the metadata
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "aot": ".pt2", "openvino": ".xml"}
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "torch-export": (),
    "aot": (),
    "openvino": ("onnx", "onnxruntime", "onnxscript", "openvino"),  # onnxruntime quantises
}


class Metadata(BaseModel):
    """Everything that a client needs to know about an exported file, indexed by label or in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str  # of retinanet
    checkpoint: str  # SHA-256 of the checkpoint file, or of the weights of a published folder
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # of COCO results
    mean: tuple[float, ...]  # of each channel, in 0..255; the program applies mean and std itself
    std: tuple[float, ...]
    channels: int
    shorter: int  # sides of resized images
    longer: int
    bucket_aspects: tuple[float, ...]  # with `divisor`, they define the padded shape of an image
    divisor: int
    padded_shape: tuple[int, int] | None  # the only one (height, width) that the program accepts; None: any
    nms: Nms  # whether the program applies min_score, NMS, max_detections and thresholds
    min_score: float
    nms_iou: float
    nms_across_classes: bool  # whether NMS also compares boxes of different classes
    max_detections: int
    thresholds: tuple[float, ...] | None  # score threshold of each class
    precision: Precision


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of an exported file of any format.

    Raises:
        InputError: the file is not one that `retinanet export` has written.
    """
    try:
        return Metadata.model_validate_json(_stored_text(path))
    except (ImportError, InputError):  # a package is missing
        raise
    except Exception as error:  # parsers raise many different types
        reason = str(error).partition("\n")[0][:160] or type(error).__name__
        raise InputError(
            f"{path}: not a file written by `retinanet export`, or damaged: {reason}; pass a file that it has written"
        ) from None


def _stored_text(path: Path) -> str:
    match path.suffix:
        case ".onnx":
            require_packages("onnx")
            onnx = import_module("onnx")
            model = onnx.load(str(path), load_external_data=False)
            return next(entry.value for entry in model.metadata_props if entry.key == KEY)
        case ".pt2":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(f"/extra/{KEY}.json"):  # torch.export
                        return archive.read(name).decode()
                    if name.endswith("_metadata.json") and KEY in (stored := json.loads(archive.read(name))):  # AOT
                        return stored[KEY]
            raise ValueError("it has no metadata")
        case ".xml":
            entry = ElementTree.parse(path).find(f"./rt_info/{KEY}")
            if entry is None:
                raise ValueError("it has no metadata")
            return entry.attrib["value"]
        case suffix:
            raise ValueError(f"files of type {suffix!r} are unknown")


def require_packages(to: Format) -> None:
    """Check that the optional packages of a format are installed.

    Raises:
        InputError: some are missing.
    """
    missing = [name for name in PACKAGES[to] if find_spec(name) is None]
    if missing:
        raise InputError(
            f"--to {to}: these packages are not installed: {', '.join(missing)}; run: pip install 'retinanet[export]'"
        )
