"""The root of the schema. The files beside this one are the only home of defaults; `load.py` fills them from YAML.

Only `build_*` functions and commands read a config. Where two keys contradict each other, the schema refuses
them by name.
"""

from typing import Self

from pydantic import model_validator

from retinanet.config.assignment import AssignmentConfig, IoUAssignmentConfig
from retinanet.config.base import StrictModel
from retinanet.config.data import DataConfig
from retinanet.config.inference import InferenceConfig, PostprocessConfig
from retinanet.config.loss import LossConfig
from retinanet.config.model import ModelConfig
from retinanet.config.train import TrainConfig


class Config(StrictModel):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    assignment: AssignmentConfig = IoUAssignmentConfig()
    loss: LossConfig = LossConfig()
    postprocess: PostprocessConfig = PostprocessConfig()
    inference: InferenceConfig = InferenceConfig()
    train: TrainConfig
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", "mps", ...

    @model_validator(mode="after")
    def loss_is_of_the_activation(self) -> Self:
        loss, activation = self.loss.classification.type, self.model.class_activation
        if (loss == "softmax_focal") != (activation == "softmax"):
            wanted = "softmax" if loss == "softmax_focal" else "sigmoid"
            other = "set loss.classification.type: softmax_focal" if wanted == "sigmoid" else "take another loss"
            raise ValueError(
                f"loss.classification.type is {loss} and model.class_activation is {activation}; "
                f"set model.class_activation: {wanted}, or {other}"
            )
        return self
