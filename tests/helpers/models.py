"""Small networks and their configs."""

from typing import Any

from retinanet.config import ModelConfig, ResNetConfig

BACKBONE_KEYS = set(ResNetConfig.model_fields)


def model_config(**settings: Any) -> ModelConfig:
    """A small config: one block of each kind, with random weights. Settings are keys of the backbone or the model."""
    settings = {"name": "resnet10_half", "weights": "none", "frozen_stages": 0, **settings}
    backbone = {key: value for key, value in settings.items() if key in BACKBONE_KEYS}
    others = {key: value for key, value in settings.items() if key not in BACKBONE_KEYS}
    return ModelConfig(backbone=ResNetConfig(**backbone), **others)
