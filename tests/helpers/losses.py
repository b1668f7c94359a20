"""Configs of the losses, shared by several tests."""

from retinanet.config import (
    CIoUConfig,
    CrossEntropyConfig,
    DIoUConfig,
    FocalConfig,
    FocalStarConfig,
    GIoUConfig,
    HingeConfig,
    QualityFocalConfig,
    SmoothL1Config,
    VarifocalConfig,
)

# Losses with one logit per class; the list of weights is for 5 classes.
CLASS_LOSSES = [
    FocalConfig(),
    FocalConfig(alpha=(0.1, 0.3, 0.5, 0.7, 0.9)),
    CrossEntropyConfig(),
    FocalStarConfig(),
    HingeConfig(),
    QualityFocalConfig(),
    VarifocalConfig(),
]
BOX_LOSSES = [SmoothL1Config(), GIoUConfig(), DIoUConfig(), CIoUConfig()]
