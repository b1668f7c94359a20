"""Margin losses under test, and their definitions."""

import torch
from torch import Tensor

from retinanet.losses.margin import FocalMargin, FocalStarMargin, HingeMargin

MARGIN_LOSSES = {
    "focal": FocalMargin(2.0),
    "focal, gamma 0.5": FocalMargin(0.5),
    "cross entropy": FocalMargin(0.0),
    "focal star": FocalStarMargin(2.0, 1.0),
    "focal star, steep": FocalStarMargin(4.0, 0.0),
    "hinge": HingeMargin(),
}


def by_definition(name: str, p_t: Tensor) -> Tensor:
    """Compute a margin loss from p_t (float64) by the formula in its paper."""
    x_t = (p_t / (1 - p_t)).log()
    return {
        "focal": lambda: -((1 - p_t) ** 2) * p_t.log(),
        "focal, gamma 0.5": lambda: -((1 - p_t) ** 0.5) * p_t.log(),
        "cross entropy": lambda: -p_t.log(),
        "focal star": lambda: -torch.sigmoid(2 * x_t + 1).log() / 2,
        "focal star, steep": lambda: -torch.sigmoid(4 * x_t).log() / 4,
        "hinge": lambda: (0.5 - p_t).clamp(min=0),
    }[name]()
