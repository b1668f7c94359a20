"""Small detectors to export, and programs that run without being exported."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from retinanet.config.load import load_config
from retinanet.export.program import DetectionProgram
from retinanet.export.write import REFERENCE
from retinanet.inference.predictor import Predictor
from retinanet.model import retinanet as network
from tests.helpers.backbones import ThreeConvolutions

NAMES = ("cat", "dog", "fox")


def small_predictor(*overrides: str, seed: int = 0, thresholds: tuple[float, ...] | None = None) -> Predictor:
    """A detector of three classes with few layers, which finds from none to many objects in images of noise."""
    settings = ["data.resize.shorter=64", "data.resize.longer=96", "model.channels=32", "model.head_norm=none"]
    cfg = load_config("quickstart", [*settings, *REFERENCE, *overrides])
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build_backbone", lambda cfg: ThreeConvolutions())
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
