"""Small detectors to export, and programs that run without export."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram

from retinanet.config.load import load_config
from retinanet.export import onnx_file, write
from retinanet.export.images import accepts
from retinanet.export.metadata import Format, Nms, read_metadata
from retinanet.export.onnx_file import write_onnx
from retinanet.export.program import DetectionProgram, export_program
from retinanet.export.verify import verify_detections
from retinanet.export.write import REFERENCE, metadata_of, open_export, program_of, write_export
from retinanet.inference.predictor import Predictor
from retinanet.model import retinanet as network
from tests.helpers.backbones import ThreeConvolutions

NAMES = ("cat", "dog", "fox")


def small_predictor(*overrides: str, seed: int = 0, thresholds: tuple[float, ...] | None = None) -> Predictor:
    """A small detector of three classes, which finds any number of objects, from none to many, in images of noise."""
    settings = ["data.resize.shorter=64", "data.resize.longer=96", "data.resize.divisor=32"]
    settings += ["model.channels=32", "model.head_norm=none"]
    cfg = load_config("quickstart", [*settings, *REFERENCE, *overrides])
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build_backbone", lambda cfg, **_: ThreeConvolutions())
        model = network.build_model(cfg.model, len(NAMES))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:  # weights of convolutions: strong enough that the scores depend on the image
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        model.head.class_subnet[-1].bias.fill_(-3)
    return Predictor(model, NAMES, (3, 5, 9), cfg, thresholds=thresholds)


def noise_images(*shapes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Images of coarse noise: uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    images = []
    for height, width in shapes:
        coarse = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        images.append(np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[:height, :width].copy())
    return images


def eager(program: DetectionProgram) -> Callable[[np.ndarray, np.ndarray], list[np.ndarray]]:
    """Run a program that has not been exported, like an exported file."""

    @torch.no_grad()
    def run(images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in program(torch.from_numpy(images), torch.from_numpy(image_sizes))]

    return run


@functools.cache
def few_objects() -> tuple[Predictor, list[np.ndarray]]:
    """A detector, and images in which it finds none, one and many objects; sizes differ from those seen at export."""
    shapes = [(64, 64), (64, 90), (90, 64), (200, 300), (61, 80), (31, 30), (64, 96), (96, 64)]
    images = [image for seed in range(2) for image in noise_images(*shapes, seed=seed)]
    predictor = small_predictor()
    scores = [predictor(torch.from_numpy(image).permute(2, 0, 1).contiguous()).scores for image in images]
    for limit in torch.cat(scores).sort(descending=True).values[1:].tolist():
        counts = [int((of_image > limit).sum()) for of_image in scores]
        if 0 in counts and 1 in counts and max(counts) > 3:
            return small_predictor(f"postprocess.min_score={limit}"), images
    raise AssertionError("there is no such limit")


@functools.cache
def traced(nms: Nms, size: tuple[int, int] | None) -> ExportedProgram:
    """The detector of `few_objects`, converted by torch.export; it is cached, because this takes long."""
    predictor, _ = few_objects()
    return export_program(program_of(predictor, nms=nms), divisor=predictor.cfg.data.resize.divisor, size=size)


@functools.cache
def onnx_content(nms: Nms, size: tuple[int, int] | None) -> bytes:
    """The detector of `few_objects` as an ONNX file, which OpenVINO's converter also starts from."""
    predictor, _ = few_objects()
    metadata = metadata_of(predictor, checkpoint="12ab", nms=nms, padded_shape=size)
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(traced(nms, size), Path(folder) / "small.onnx", metadata)
        return (Path(folder) / "small.onnx").read_bytes()


def check_format(path: Path, *, to: Format, nms: Nms, size: tuple[int, int] | None = None) -> None:
    """Export the detector of `few_objects` to a file, and check what the file contains and detects."""
    predictor, images = few_objects()
    metadata = metadata_of(predictor, checkpoint="12ab", nms=nms, padded_shape=size)
    images = [image for image in images if accepts(metadata, *image.shape[:2])]
    assert len(images) > 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "export_program", lambda program, *, divisor, size: traced(nms, size))
        patch.setattr(onnx_file, "write_onnx", lambda program, path, _: path.write_bytes(onnx_content(nms, size)))
        write_export(program_of(predictor, nms=nms), path, metadata, to=to)
    assert read_metadata(path) == metadata
    verified = verify_detections(open_export(path, to=to), metadata, predictor, images)
    if size is None:
        assert 0 in verified.counts and 1 in verified.counts and max(verified.counts) > 3
    assert verified.max_score_difference < 1e-5
