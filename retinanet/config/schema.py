"""`Config`, the root of the config schema; each section is defined in its own module of this package.

Defaults are defined only in this package; `load.py` merges them with the values from YAML. Only `build_*` functions
and commands read a config. The schema rejects keys that contradict each other and names them in the error.
"""

from typing import Annotated, Any, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from retinanet.config.assignment import AssignmentConfig, IoUAssignmentConfig
from retinanet.config.base import MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS, StrictModel
from retinanet.config.custom import CustomConfig
from retinanet.config.data import DataConfig
from retinanet.config.evaluation import EvaluationConfig
from retinanet.config.inference import InferenceConfig, PostprocessConfig
from retinanet.config.loss import LossConfig
from retinanet.config.model import KEYS_OF_IMAGES, ModelConfig
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
    """How a trained model is run on images, in prediction and evaluation."""
    train: TrainConfig
    """Batches, optimizer, schedule, checkpoints and evaluation."""
    device: Annotated[str, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = "auto"
    """Device: auto (an accelerator if available, or the CPU), cpu, cuda, cuda:1, mps, or another torch device."""
    custom: CustomConfig = CustomConfig()
    """Parts passed in Python."""

    @model_serializer(mode="wrap")
    def without_replaced(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the keys that a custom part replaces, and `custom` if there are no such parts."""
        values: dict[str, Any] = handler(self)
        if not self.custom.described:
            values.pop("custom", None)
        for key in self.custom.replaced:
            section, _, name = key.partition(".")
            if section == "model" and self.model.in_channels != 3:
                values["model"] = {key: value for key, value in values["model"].items() if key in KEYS_OF_IMAGES}
            elif not name:
                values.pop(section, None)
            elif section in values:
                values[section].pop(name, None)
        return values

    @model_validator(mode="after")
    def replaced_keys_are_not_set(self) -> Self:
        custom = self.custom
        for part, section, is_set in (
            (custom.model, "model", self.model != self.model.of_images),
            (custom.class_loss, "loss.classification", self.loss.classification != LossConfig().classification),
            (custom.loss, "loss", self.loss != LossConfig()),
        ):
            if part is not None and is_set:
                raise ValueError(f"{section} has no effect with the custom part {part}; remove these keys")
        return self

    @model_validator(mode="after")
    def loss_matches_activation(self) -> Self:
        if self.custom.model or self.custom.class_loss or self.custom.loss:
            return self  # checked when the run starts
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
