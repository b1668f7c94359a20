"""Small checkpoints for publishing, and comparisons of their detections."""

from pathlib import Path
from typing import Any

import torch

from retinanet.checkpoint.file import Checkpoint
from retinanet.config.load import with_overrides
from retinanet.interop.published import write_published
from retinanet.model.retinanet import build_model
from retinanet.structures import Detections
from tests.helpers.checkpoints import overdetecting_config

NAMES = ("one", "two", "three")


def detector(*overrides: str, average: bool = False, **fields: Any) -> Checkpoint:
    """A checkpoint of a small network with random weights that detects objects everywhere.

    Args:
        overrides: changes to its config.
        average: add an average of the weights, which differs from them.
        fields: changes to the checkpoint.
    """
    cfg = with_overrides(overdetecting_config(), overrides, source="test")
    torch.manual_seed(0)
    state: dict[str, Any] = {"model": build_model(cfg.model, len(NAMES)).state_dict(), "optimizer": {"lr": 1}}
    if average:
        state["ema"] = {"model": build_model(cfg.model, len(NAMES)).state_dict(), "updates": 3}
    checkpoint = Checkpoint(config=cfg, class_names=NAMES, category_ids=(3, 5, 9), step=7, state=state)
    return checkpoint._replace(**fields)


def published(folder: Path, checkpoint: Checkpoint | None = None) -> Path:
    """Write a published folder, and return it."""
    write_published(folder, detector() if checkpoint is None else checkpoint, card="# card\n")
    return folder


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """An image (3, H, W) uint8."""
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def assert_bit_identical(found: Detections, expected: Detections) -> None:
    """Assert that two results are equal to the last bit, and not empty."""
    assert len(found) == len(expected) > 0
    for field in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field
    assert found.class_names == expected.class_names
