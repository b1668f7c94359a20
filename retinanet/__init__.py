"""RetinaNet: training, evaluation and inference of the focal loss detector (Lin et al. 2017)."""

__version__ = "0.1.0"

from retinanet.config import Config
from retinanet.config_file import load_config
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor

__all__ = ["Config", "InputError", "Predictor", "load_config", "train"]
