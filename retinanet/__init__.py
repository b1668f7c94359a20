"""RetinaNet: training, evaluation and inference of the focal loss detector (Lin et al. 2017)."""

import importlib
from typing import Any

__version__ = "0.2.0.dev0"

# The public names and where they live. Loaded when first used: `retinanet --help` need not wait for torch.
_HOMES = {
    "Config": "retinanet.config",
    "FocalLoss": "retinanet.losses.focal",
    "InputError": "retinanet.errors",
    "Predictor": "retinanet.inference.predictor",
    "build_model": "retinanet.model.retinanet",
    "load_config": "retinanet.config.load",
    "train": "retinanet.engine.train",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
