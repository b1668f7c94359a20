"""RetinaNet object detection with the focal loss (Lin et al. 2017): training, evaluation and inference."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

# For type checkers and editors. At run time the same names are imported on first use: `retinanet --help` need not wait
# for torch.
if TYPE_CHECKING:
    from retinanet.config import Config
    from retinanet.config.load import load_config
    from retinanet.engine.train import train
    from retinanet.errors import InputError
    from retinanet.inference.predictor import Predictor
    from retinanet.losses.softmax_focal import SoftmaxFocalLoss
    from retinanet.model.retinanet import RetinaNet, build_model
    from retinanet.structures import Detections
    from retinanet.visualization.draw import draw_detections

_MODULES = {
    "Config": "retinanet.config",
    "Detections": "retinanet.structures",
    "InputError": "retinanet.errors",
    "Predictor": "retinanet.inference.predictor",
    "RetinaNet": "retinanet.model.retinanet",
    "SoftmaxFocalLoss": "retinanet.losses.softmax_focal",
    "build_model": "retinanet.model.retinanet",
    "draw_detections": "retinanet.visualization.draw",
    "load_config": "retinanet.config.load",
    "train": "retinanet.engine.train",
}
__all__ = [
    "Config",
    "Detections",
    "InputError",
    "Predictor",
    "RetinaNet",
    "SoftmaxFocalLoss",
    "__version__",
    "build_model",
    "draw_detections",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
