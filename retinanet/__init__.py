"""RetinaNet: training, evaluation and inference for the focal loss detector (Lin et al. 2017)."""

import importlib

# Type checkers treat this name as true. Commands handle Ctrl-C a little earlier if `typing` is not imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from retinanet.config import Config as Config
    from retinanet.config.load import load_config as load_config
    from retinanet.engine.callbacks import Callback as Callback
    from retinanet.engine.evaluate_checkpoint import evaluate_checkpoint as evaluate
    from retinanet.engine.train import train as train
    from retinanet.errors import InputError as InputError
    from retinanet.formats.videos.reader import open_video as open_video
    from retinanet.inference.predictor import Predictor as Predictor
    from retinanet.losses.focal import FocalLoss as FocalLoss
    from retinanet.losses.focal import focal_loss as focal_loss
    from retinanet.model.retinanet import RetinaNet as RetinaNet
    from retinanet.model.retinanet import build_model as build_model
    from retinanet.prediction.predict import predict as predict
    from retinanet.structures import Detections as Detections
    from retinanet.visualization.draw import draw_detections as draw_detections

__version__ = "0.2.0.dev0"

# Public name -> (module, name in that module). Imported on first use, so `retinanet --help` does not import torch.
_PUBLIC = {
    "Callback": ("retinanet.engine.callbacks", "Callback"),
    "Config": ("retinanet.config", "Config"),
    "Detections": ("retinanet.structures", "Detections"),
    "FocalLoss": ("retinanet.losses.focal", "FocalLoss"),
    "InputError": ("retinanet.errors", "InputError"),
    "Predictor": ("retinanet.inference.predictor", "Predictor"),
    "RetinaNet": ("retinanet.model.retinanet", "RetinaNet"),
    "build_model": ("retinanet.model.retinanet", "build_model"),
    "draw_detections": ("retinanet.visualization.draw", "draw_detections"),
    "evaluate": ("retinanet.engine.evaluate_checkpoint", "evaluate_checkpoint"),
    "focal_loss": ("retinanet.losses.focal", "focal_loss"),
    "load_config": ("retinanet.config.load", "load_config"),
    "open_video": ("retinanet.formats.videos.reader", "open_video"),
    "predict": ("retinanet.prediction.predict", "predict"),
    "train": ("retinanet.engine.train", "train"),
}
__all__ = [
    "Callback",
    "Config",
    "Detections",
    "FocalLoss",
    "InputError",
    "Predictor",
    "RetinaNet",
    "build_model",
    "draw_detections",
    "evaluate",
    "focal_loss",
    "load_config",
    "open_video",
    "predict",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
