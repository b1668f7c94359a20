"""`Config`, the root of the config schema; each section is defined in its own module of this package.

Defaults are defined only in this package; `load.py` merges them with the values from YAML. Only `build_*` functions
and commands read a config. The schema rejects keys that contradict each other and names them in the error.
"""

from typing import Annotated, Self

from pydantic import model_validator

from retinanet.config.assignment import AssignmentConfig, IoUAssignmentConfig
from retinanet.config.base import MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS, StrictModel
from retinanet.config.data import DataConfig
from retinanet.config.evaluation import EvaluationConfig
from retinanet.config.inference import InferenceConfig, PostprocessConfig
from retinanet.config.loss import LossConfig
from retinanet.config.model import ModelConfig
from retinanet.config.train import TrainConfig


class Config(StrictModel):
    """Complete config of a run."""

    data: DataConfig = DataConfig()
    """Annotation sources, classes, resizing and augmentation."""
    model: ModelConfig = ModelConfig()
    """Backbone, feature pyramid, head and anchors."""
    assignment: AssignmentConfig = IoUAssignmentConfig()
    """Which anchors are positive, negative or ignored."""
    loss: LossConfig = LossConfig()
    """Class loss, box loss and their weights."""
    postprocess: Annotated[PostprocessConfig, MAY_CHANGE_ON_RESUME] = PostprocessConfig()
    """Conversion of head outputs to detections."""
    evaluation: Annotated[EvaluationConfig, MAY_CHANGE_ON_RESUME] = EvaluationConfig()
    """Scoring of detections."""
    inference: Annotated[InferenceConfig, MAY_CHANGE_ON_RESUME] = InferenceConfig()
    """Precision and compilation of a trained model."""
    train: TrainConfig
    """Batches, optimizer, schedule, checkpoints and evaluation."""
    device: Annotated[str, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = "auto"
    """Device: auto (an accelerator if available, or the CPU), cpu, cuda, cuda:1, mps, or another torch device."""

    @model_validator(mode="after")
    def loss_matches_activation(self) -> Self:
        loss, activation = self.loss.classification.type, self.model.class_activation
        needs_background = self.loss.classification.has_background_logit
        if needs_background != self.model.has_background_logit:
            expected = "softmax" if needs_background else "sigmoid"
            other = "choose another loss" if needs_background else "set loss.classification.type: softmax_focal"
            raise ValueError(
                f"loss.classification.type is {loss} and model.class_activation is {activation}; "
                f"set model.class_activation: {expected}, or {other}"
            )
        return self

    @model_validator(mode="after")
    def data_fits_the_channels(self) -> Self:
        channels, bands, ranges = self.model.in_channels, self.data.bands, self.data.value_range
        if bands is not None and len(bands) != channels and (channels, len(bands)) != (3, 1):
            one = " or one band" if channels == 3 else ""
            raise ValueError(
                f"data.bands selects {len(bands)} band(s) and model.in_channels is {channels}; select as many bands as "
                f"channels{one}"
            )
        if isinstance(ranges[0], tuple) and len(ranges) != channels:
            raise ValueError(
                f"data.value_range has {len(ranges)} ranges and model.in_channels is {channels}; set one range for "
                "each channel, or one for all"
            )
        if channels != 3:
            for position, transform in enumerate(self.data.transforms):
                if transform.rgb_only:
                    raise ValueError(
                        f"data.transforms[{position}], {transform.type}, is only for RGB images, and "
                        f"model.in_channels is {channels}: {transform.rgb_only}"
                    )
        return self
