"""Benchmark whole inference with exported files: from decoded images to detections in pixels of the original image.

All variants resize the images themselves, and run networks with the same weights and number of threads on the CPU. The
last layer of the class subnet is changed to give every image about as many candidates as a trained network does.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from retinanet.benchmarks.candidates import MIN_SCORE
from retinanet.benchmarks.inference import make_candidates
from retinanet.benchmarks.measure import Measurement, Variant, compare, ratio
from retinanet.benchmarks.networks import our_network, textures, torchvision_network
from retinanet.benchmarks.report import comparison_table, precision_name, table, to_plain_values
from retinanet.benchmarks.settings import Settings, SuiteResult, network_size
from retinanet.config import (
    Config,
    DataConfig,
    DataSource,
    InferenceConfig,
    ModelConfig,
    ResizeConfig,
    ResNetConfig,
    TrainConfig,
)
from retinanet.config.base import Precision
from retinanet.errors import InputError
from retinanet.export.aot_package import write_aot_package
from retinanet.export.int8 import quantise_onnx
from retinanet.export.metadata import Format, Metadata, Nms, require_packages
from retinanet.export.numpy_runtime import detections, prepare
from retinanet.export.onnx_file import write_onnx
from retinanet.export.openvino_model import write_openvino
from retinanet.export.program import export_program
from retinanet.export.torch_program import write_torch_program
from retinanet.export.write import metadata_of, open_export, program_of
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import RetinaNet
from retinanet.structures import Detections

SIZE, BATCHES, CLASSES = (256, 320), (1, 8), 20
CANDIDATES = 300  # above `min_score` in each image, over all levels
RESIZE_SCALE = 0.6  # side of the resized image / side of the original image
CALIBRATION_IMAGES = 4
DETECTIONS_TOLERANCE = 0.5  # relative; INT8, and torchvision's resizing without antialiasing, change detections
OURS, THEIRS = "predictor", "torchvision"
PROGRAM_WRITERS: dict[Format, Callable[[ExportedProgram, Path, Metadata], None]] = {
    "torch-export": write_torch_program,
    "aot": write_aot_package,
}


Call = Callable[[list[np.ndarray]], object]


class ExportedFile(NamedTuple):
    """An exported file that is measured."""

    path: Path
    to: Format
    metadata: Metadata


def run(settings: Settings) -> SuiteResult:
    if settings.device.type != "cpu":
        raise InputError(f"the export suite runs on the CPU, found --device {settings.device}; use --device cpu")
    for to in get_args(Format):
        require_packages(to)
    size, classes = network_size(settings, SIZE), settings.classes or CLASSES
    batches = (settings.batch,) if settings.batch else BATCHES
    images = original_images(max(batches), size)
    model = our_network(settings.backbone, classes, settings).eval()
    predictor = predictor_of(model, settings, size)
    pixels, sizes = prepare(images, metadata_of(predictor, checkpoint="", nms="outside").model_dump())
    make_candidates(model, torch.from_numpy(pixels), torch.from_numpy(sizes), shift_for_few)
    predictor = predictor_of(model, settings, size)

    tables, details, ratios = [], {"size": size, "classes": classes, "backbone": settings.backbone}, {}
    with tempfile.TemporaryDirectory() as folder:
        # Exporting changes the memory format of a predictor, so the timed ones are not exported.
        calls = native_calls(model, settings, size)
        files = write_files(predictor, images[:CALIBRATION_IMAGES], size, Path(folder))
        bytes_of = {name: size_on_disk(file.path) for name, file in files.items()}
        calls |= {name: exported_call(file) for name, file in files.items()}
        for batch in batches:
            measured = measure(calls, images[:batch], settings)
            title = f"export: {settings.backbone}, {batch} x {size[0]}x{size[1]}, {classes} classes"
            tables.append(comparison_table(title, measured, ours=OURS))
            details[f"batch_{batch}"] = to_plain_values(measured, ours=OURS)
            for name in measured:
                if name != OURS:
                    key = name.replace(", ", "_").replace(" ", "_").replace("-", "_")
                    ratios[f"batch_{batch}_vs_{key}"] = ratio(measured[name], measured[OURS]).of_rounds
    rows = [[name, f"{count / 1e6:.1f}"] for name, count in bytes_of.items()]
    tables.append(table("size of files", ["", "MB"], rows))
    return SuiteResult(ratios, tables, details | {"bytes": bytes_of})


def original_images(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Generate images that have to be resized: uint8 (H, W, 3)."""
    height, width = (round(side / RESIZE_SCALE) for side in size)
    images = textures(count, height, width, torch.Generator().manual_seed(0))
    return list(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()))


def shift_for_few(logits: list[Tensor]) -> Tensor:
    """Scalar to add to logits L x (B, A_l, K) to give each image CANDIDATES candidates, on average."""
    pairs = torch.cat([level.flatten(1) for level in logits], dim=1).flatten()
    count = min(CANDIDATES * len(logits[0]), len(pairs) // 2)
    return torch.tensor(MIN_SCORE).logit() - pairs.topk(count).values[-1]


def predictor_of(
    model: RetinaNet, settings: Settings, size: tuple[int, int], *, precision: Precision = "fp32", compile: bool = False
) -> Predictor:
    """A predictor that resizes all images of the benchmark to `size`."""
    shorter, longer = min(size), max(size)
    backbone = ResNetConfig(name=settings.backbone, weights="none", norm="frozen", frozen_stages=0)
    resize = ResizeConfig(shorter=(shorter,), longer=longer, bucket_aspects=(longer / shorter,))
    cfg = Config(
        data=DataConfig(train=(DataSource(annotations="unused.json"),), resize=resize),
        model=ModelConfig(backbone=backbone, p6_from="p5"),
        train=TrainConfig(epochs=1),
        inference=InferenceConfig(precision=precision, compile=compile),
        device="cpu",
    )
    labels = range(model.head.num_classes)
    return Predictor(model, [str(label) for label in labels], labels, cfg)


def native_calls(model: RetinaNet, settings: Settings, size: tuple[int, int]) -> dict[str, Call]:
    """Calls of the detectors that are not exported."""
    theirs = torchvision_network(model, settings.backbone, size, skip_resize=False).eval()

    @torch.inference_mode()
    def call_theirs(images: list[np.ndarray]) -> list[dict[str, Tensor]]:
        return theirs([torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 255 for image in images])

    calls: dict[str, Call] = {OURS: predictor_of(model, settings, size).__call__, THEIRS: call_theirs}
    if settings.compiled:
        calls[f"{OURS} compiled"] = predictor_of(model, settings, size, compile=True).__call__
    if settings.dtype != torch.float32:
        name = f"{OURS} {precision_name(settings.dtype)}"
        calls[name] = predictor_of(model, settings, size, precision="bf16").__call__
    return calls


def write_files(
    predictor: Predictor, images: list[np.ndarray], size: tuple[int, int], folder: Path
) -> dict[str, ExportedFile]:
    """Export a detector for images of one padded shape to every format.

    Args:
        images: calibration images, uint8 (H, W, C).
    """
    files: dict[str, ExportedFile] = {}
    for nms in get_args(Nms):
        metadata = metadata_of(predictor, checkpoint="", nms=nms, padded_shape=size)
        program = export_program(program_of(predictor, nms=nms), divisor=metadata.divisor, size=size)
        onnx, openvino = folder / f"{nms}.onnx", folder / f"{nms}.xml"
        write_onnx(program, onnx, metadata)
        write_openvino(onnx, openvino, metadata)
        files[f"onnx, nms {nms}"] = ExportedFile(onnx, "onnx", metadata)
        files[f"openvino, nms {nms}"] = ExportedFile(openvino, "openvino", metadata)
        if nms == "outside":
            metadata = metadata.model_copy(update={"precision": "int8"})
            int8, openvino = folder / "int8.onnx", folder / "int8.xml"
            quantise_onnx(onnx, int8, metadata, images)
            write_openvino(int8, openvino, metadata)
            files[f"onnx int8, nms {nms}"] = ExportedFile(int8, "onnx", metadata)
            files[f"openvino int8, nms {nms}"] = ExportedFile(openvino, "openvino", metadata)
        else:
            for to, write in PROGRAM_WRITERS.items():
                path = folder / f"{to}.pt2"
                # A program that was converted to ONNX cannot be compiled any more (torch 2.14).
                program = export_program(program_of(predictor, nms=nms), divisor=metadata.divisor, size=size)
                write(program, path, metadata)
                files[f"{to}, nms {nms}"] = ExportedFile(path, to, metadata)
    return files


def exported_call(file: ExportedFile) -> Call:
    runner = open_export(file.path, to=file.to)
    values = file.metadata.model_dump()

    def call(images: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        pixels, sizes = prepare(images, values)
        original_sizes = np.array([image.shape[:2] for image in images])
        return detections(runner(pixels, sizes), sizes, original_sizes, values)

    return call


def size_on_disk(path: Path) -> int:
    """Bytes of an exported file, including OpenVINO's file of weights."""
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(part.stat().st_size for part in parts)


def measure(calls: dict[str, Call], images: list[np.ndarray], settings: Settings) -> dict[str, Measurement]:
    expected = num_detections(calls[OURS](images))

    def check(results: Any) -> None:
        if abs(num_detections(results) - expected) > DETECTIONS_TOLERANCE * expected:
            raise RuntimeError(f"found {num_detections(results)} objects, expected about {expected}")

    variants = [
        Variant(name, lambda call=call: call(images), check=check, on_device=False) for name, call in calls.items()
    ]
    what = f"export, batch {len(images)}"
    return compare(variants, rounds=settings.rounds, device=settings.device, what=what)


def num_detections(results: Any) -> int:
    """Number of detections in the results of any variant."""
    counts = []
    for result in results:
        match result:
            case Detections():
                counts.append(len(result))
            case dict():  # torchvision
                counts.append(len(result["scores"]))
            case _:
                _, scores, _ = result
                counts.append(len(scores))
    return sum(counts)
