"""Export a detector to a file of any format, with its metadata, and open such a file for running."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from retinanet import __version__
from retinanet.config import Config
from retinanet.detection.postprocess import build_postprocess
from retinanet.errors import InputError
from retinanet.export.metadata import Format, Metadata, Nms, Precision, require_packages
from retinanet.export.program import DetectionProgram, export_program
from retinanet.inference.predictor import Predictor
from retinanet.runtime.device import missing_for_compiling

# Called with images (B, C, H, W) uint8 and image_sizes (B, 2); returns boxes, scores and labels.
Runner = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]

# The reference for an export: on the CPU, in float32, and not compiled.
REFERENCE = ("device=cpu", "inference.precision=fp32", "inference.compile=false")


def metadata_of(
    predictor: Predictor,
    *,
    checkpoint: str,
    nms: Nms,
    padded_shape: tuple[int, int] | None = None,
    precision: Precision = "float32",
) -> Metadata:
    """Collect the metadata of an export.

    Args:
        checkpoint: SHA-256 of the checkpoint file, or of the weights of a published folder.

    Raises:
        InputError: the config sets something that exported programs do not support; see `check_exportable`.
    """
    check_exportable(predictor.cfg)
    network, resize, postprocess = predictor.model.model, predictor.cfg.data.resize, predictor.cfg.postprocess
    return Metadata(
        version=__version__,
        checkpoint=checkpoint,
        class_names=predictor.class_names,
        category_ids=predictor.category_ids,
        mean=tuple(network.mean.flatten().tolist()),
        std=tuple(network.std.flatten().tolist()),
        channels=network.mean.numel(),
        shorter=resize.eval_shorter,
        longer=resize.longer,
        bucket_aspects=resize.bucket_aspects,
        divisor=resize.divisor,
        padded_shape=padded_shape,
        nms=nms,
        min_score=postprocess.min_score,
        nms_iou=postprocess.nms_iou,
        nms_across_classes=postprocess.nms_across_classes,
        max_detections=postprocess.max_detections,
        thresholds=predictor.thresholds,
        precision=precision,
    )


def check_exportable(cfg: Config) -> None:
    """Check that an exported program can do what a config asks for: one pass over the whole image, and plain NMS.

    Raises:
        InputError: the config sets tiles, test-time augmentation or soft NMS.
    """
    inference = cfg.inference
    found = {
        "inference.tile.size=null": inference.tile.size is not None,
        "inference.augment.flip=false": inference.augment.flip,
        "inference.augment.scales=[]": bool(inference.augment.scales),
        "postprocess.soft_nms=null": cfg.postprocess.soft_nms is not None,
    }
    if overrides := [override for override, is_set in found.items() if is_set]:
        raise InputError(
            "exported programs do not support tiles, test-time augmentation and soft NMS, but the config sets some of "
            f"them; to export without, add {' '.join(overrides)}"
        )


def program_of(predictor: Predictor, *, nms: Nms) -> DetectionProgram:
    """The part of a predictor that is exported. The predictor must be on the CPU, in float32, and not compiled."""
    cfg: Config = predictor.cfg
    return DetectionProgram(
        predictor.model.model.to(memory_format=torch.contiguous_format),
        build_postprocess(cfg.postprocess, background_logit=cfg.model.has_background_logit),
        thresholds=predictor.thresholds,
        nms=nms == "inside",
    )


def write_export(
    program: DetectionProgram,
    path: Path,
    metadata: Metadata,
    *,
    to: Format,
    calibration: Sequence[np.ndarray] = (),
) -> None:
    """Export a program and write it, with its metadata, in one format.

    Args:
        calibration: images, uint8 (H, W, C), on which to measure the ranges of activations; only for INT8.

    Raises:
        InputError: an optional package that the format needs is not installed.
    """
    require_packages(to)
    exported = export_program(program, divisor=metadata.divisor, size=metadata.padded_shape)
    match to:
        case "onnx":
            _write_onnx(exported, path, metadata, calibration)
        case "torch-export":
            from retinanet.export.torch_program import write_torch_program

            write_torch_program(exported, path, metadata)
        case "aot":
            from retinanet.export.aot_package import write_aot_package

            write_aot_package(exported, path, metadata)
        case "openvino":
            from retinanet.export.openvino_model import write_openvino

            with tempfile.TemporaryDirectory() as folder:
                onnx_file = Path(folder) / "program.onnx"
                _write_onnx(exported, onnx_file, metadata, calibration)
                write_openvino(onnx_file, path, metadata)


def _write_onnx(program: ExportedProgram, path: Path, metadata: Metadata, calibration: Sequence[np.ndarray]) -> None:
    from retinanet.export.onnx_file import write_onnx

    write_onnx(program, path, metadata)
    if metadata.precision == "int8":
        from retinanet.export.int8 import quantise_onnx

        quantise_onnx(path, path, metadata, calibration)


def open_export(path: Path, *, to: Format) -> Runner:
    """Open an exported file in its own runtime, on the CPU.

    Raises:
        InputError: an optional package that the format needs is not installed.
    """
    require_packages(to)
    match to:
        case "onnx":
            from retinanet.export.onnx_file import OnnxRunner

            return OnnxRunner(path)
        case "torch-export":
            from retinanet.export.torch_program import TorchRunner

            return TorchRunner(path)
        case "aot":
            from retinanet.export.aot_package import AotRunner

            return AotRunner(path)
        case "openvino":
            from retinanet.export.openvino_model import OpenVinoRunner

            return OpenVinoRunner(path)


def check_size(size: tuple[int, int], predictor: Predictor) -> None:
    """Check that a fixed size is one of the padded shapes of the config.

    Raises:
        InputError: it is not.
    """
    known = predictor.padded_shapes()
    if size not in known:
        listed = ", ".join(f"{height}x{width}" for height, width in known)
        raise InputError(
            f"--size {size[0]}x{size[1]}: images of this config are padded to {listed}; choose one of these sizes, or "
            "set data.resize.shorter, data.resize.longer and data.resize.bucket_aspects"
        )


def check_any_size(predictor: Predictor) -> None:
    """Check that AOTInductor can compile a detector for any padded shape within minutes.

    If sides are not multiples of the stride of C5, the sizes of feature maps are nested roundings of the sides, which
    AOTInductor simplifies again and again.

    Raises:
        InputError: they are not.
    """
    stride, divisor = predictor.model.model.backbone.strides[-1], predictor.cfg.data.resize.divisor
    if divisor % stride:
        shapes = predictor.padded_shapes()
        raise InputError(
            f"--to aot: without --size, the sides of padded images must be multiples of {stride}, but "
            f"data.resize.divisor is {divisor}; pass --size HxW, such as {shapes[0][0]}x{shapes[0][1]}, or set "
            f"data.resize.divisor={stride}"
        )


def check_compiler() -> None:
    """Check that AOTInductor finds a C++ compiler.

    Raises:
        InputError: it does not.
    """
    missing = missing_for_compiling(torch.device("cpu"))
    if missing:
        raise InputError(f"--to aot: needs {missing}")
