"""`model`: backbone, pyramid, heads and anchors."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retinanet.config.base import Count, Positive, StrictModel


class AnchorConfig(StrictModel):
    strides: tuple[Count, ...] = (8, 16, 32, 64, 128)  # P3 to P7, pixels
    sizes: tuple[Positive, ...] = (32, 64, 128, 256, 512)  # square root of the area at scale 1, pixels
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    aspect_ratios: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)  # height / width
    offset: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the centre, in strides
    rounding: Literal["none", "torchvision"] = "none"

    @model_validator(mode="after")
    def one_size_per_level(self) -> Self:
        if self.strides != (8, 16, 32, 64, 128):
            raise ValueError(f"strides are {self.strides}, the pyramid P3 to P7 has (8, 16, 32, 64, 128)")
        if len(self.strides) != len(self.sizes):
            raise ValueError(f"{len(self.strides)} strides but {len(self.sizes)} sizes; give one of each per level")
        return self


class ResNetConfig(StrictModel):
    """A residual network of torchvision."""

    type: Literal["resnet"] = "resnet"
    name: Literal[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
    ] = "resnet50"
    weights: str = "imagenet"  # "imagenet", one of torchvision's names, a file, or "none"
    norm: Literal["frozen", "batch", "sync", "group"] = "frozen"
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2  # 2: the stem and the first residual stage never change
    # Keeps less of the backbone for the backward pass, and computes it again: less memory, more time, the same numbers.
    checkpoint_activations: bool = False

    @model_validator(mode="after")
    def nothing_random_is_frozen(self) -> Self:
        if self.weights == "none" and self.frozen_stages > 0:
            raise ValueError(
                f"weights is none and frozen_stages is {self.frozen_stages}: random weights would never change; "
                "set frozen_stages: 0, or give weights"
            )
        return self


# Told apart by `type`: a further kind of backbone joins here, with the keys that it supports.
BackboneConfig = ResNetConfig


class ModelConfig(StrictModel):
    backbone: BackboneConfig = ResNetConfig()
    channels: Count = 256  # of the pyramid and the heads
    p6_from: Literal["c5", "p5"] = "c5"
    head_convs: Annotated[int, Field(ge=0)] = 4
    head_norm: Literal["none", "group"] = "none"
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.01
    # sigmoid: a logit for each class. softmax: one more, the last, for background; its loss is softmax_focal
    class_activation: Literal["sigmoid", "softmax"] = "sigmoid"
    num_classes: Count | None = None  # none: counted in the data
    anchors: AnchorConfig = AnchorConfig()
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # ImageNet's, RGB, 0..255
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def groups_fit_the_channels(self) -> Self:
        # 32 groups, and no group of one channel: on a level of one cell it would have nothing to normalise.
        if self.head_norm == "group" and (self.channels % 32 or self.channels < 64):
            raise ValueError(
                f"head_norm is group and channels is {self.channels}; give a multiple of 32 from 64 upwards"
            )
        return self
