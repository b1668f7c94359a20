"""Checkpoints for tests."""

from typing import Any

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config, TrainConfig


def checkpoint_of(step: int = 1, **state: Any) -> Checkpoint:
    """A checkpoint of a default config with the given parts of the state."""
    return Checkpoint(
        config=Config(train=TrainConfig(steps=1)),
        class_names=("cat", "dog"),
        category_ids=(3, 7),
        num_images=3,
        step=step,
        state=state,
    )
