"""`model`: backbone, feature pyramid, head and anchors."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retinanet.config.base import MAY_CHANGE_ON_RESUME, PATH, Count, CountOrZero, Positive, StrictModel

Norm = Literal["frozen", "batch", "sync", "group"]
TimmNorm = Literal["frozen", "batch", "sync"]
HeadNorm = Literal["none", "group"]
ClassPrecision = Literal["network", "fp32"]
P6Source = Literal["c5", "p5"]
AnchorRounding = Literal["none", "torchvision"]
ClassActivation = Literal["sigmoid", "softmax"]
TorchvisionResNet = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]
ResNetName = Literal[TorchvisionResNet, "resnet10_half"]


class AnchorConfig(StrictModel):
    """Anchors on each pyramid level (Lin et al. 2017, section 4)."""

    strides: tuple[Count, ...] = (8, 16, 32, 64, 128)
    """Stride of each level from P3 to P7, in pixels."""
    sizes: tuple[Positive, ...] = (32, 64, 128, 256, 512)
    """Anchor size on each level, in pixels: the square root of the anchor's area at scale 1."""
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    """Factors by which each size is multiplied."""
    aspect_ratios: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Aspect ratios as height / width."""
    offset: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Position of anchor centres within a cell, in units of the stride; 0.5 is the middle."""
    rounding: AnchorRounding = "none"
    """Rounding of anchors. torchvision: round to whole pixels, as torchvision's weights expect."""

    @model_validator(mode="after")
    def one_size_per_level(self) -> Self:
        if self.strides != (8, 16, 32, 64, 128):
            raise ValueError(f"strides are {self.strides}, but the pyramid P3 to P7 has (8, 16, 32, 64, 128)")
        if len(self.strides) != len(self.sizes):
            raise ValueError(f"{len(self.strides)} strides but {len(self.sizes)} sizes; set one of each per level")
        return self


class ResNetConfig(StrictModel):
    """ResNet or ResNeXt. Weights have torchvision's names."""

    type: Literal["resnet"] = "resnet"
    name: ResNetName = "resnet50"
    """Architecture. resnet10_half has one block per stage and half the channels of resnet18, for small images on a
    CPU."""
    weights: Annotated[str, PATH, MAY_CHANGE_ON_RESUME] = "imagenet"
    """Initial weights: imagenet, the name of torchvision weights such as IMAGENET1K_V2, a file path, or none."""
    norm: Norm = "frozen"
    """Normalisation: frozen batch norm, batch norm, batch norm synchronised across processes, or group norm."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """Number of frozen stages, counted from the input: 2 freezes the stem and the first residual stage."""
    checkpoint_activations: Annotated[bool, MAY_CHANGE_ON_RESUME] = False
    """Whether to recompute activations in the backward pass: slower, but saves memory. Results do not change."""

    @model_validator(mode="after")
    def imagenet_weights_exist(self) -> Self:
        if self.name == "resnet10_half" and self.weights.lower().startswith("imagenet"):
            raise ValueError("resnet10_half has no ImageNet weights; set weights: none and frozen_stages: 0")
        return self

    @model_validator(mode="after")
    def nothing_random_is_frozen(self) -> Self:
        reject_frozen_random_weights(self.weights, self.frozen_stages)
        return self


class TimmConfig(StrictModel):
    """A network from timm with feature maps of strides 8, 16 and 32. It needs `pip install retinanet[timm]`."""

    type: Literal["timm"] = "timm"
    name: Annotated[str, Field(min_length=1)]
    """Architecture, one of `timm.list_models()`, such as convnext_tiny, without the name of weights."""
    weights: Annotated[str, PATH, MAY_CHANGE_ON_RESUME] = "imagenet"
    """Initial weights: imagenet for timm's default weights of the architecture, the name of other weights, such as
    dinov3_lvd1689m, a file path, or none."""
    norm: TimmNorm = "frozen"
    """Treatment of the batch norms: frozen with the statistics of the pretrained weights, trained, or synchronised
    across processes. Other norms, such as ConvNeXt's layer norms, are always trained."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """Number of frozen stages, counted from the input: 1 freezes all layers up to the feature map of stride 2, 2 up to
    stride 4, and so on up to 5 for stride 32. Many networks begin with stride 4, and cannot freeze 1."""
    checkpoint_activations: Annotated[bool, MAY_CHANGE_ON_RESUME] = False
    """Whether to recompute activations in the backward pass: slower, but saves memory. Results do not change. The batch
    norms must be frozen."""

    @model_validator(mode="after")
    def weights_are_not_part_of_the_name(self) -> Self:
        name, dot, weights = self.name.partition(".")
        if dot:
            raise ValueError(f"name is {self.name}, which includes weights; set name: {name} and weights: {weights}")
        return self

    @model_validator(mode="after")
    def nothing_random_is_frozen(self) -> Self:
        reject_frozen_random_weights(self.weights, self.frozen_stages)
        return self


def reject_frozen_random_weights(weights: str, frozen_stages: int) -> None:
    """Reject frozen stages without pretrained weights."""
    if weights == "none" and frozen_stages > 0:
        raise ValueError(
            f"weights is none and frozen_stages is {frozen_stages}: random weights would never change; "
            "set frozen_stages: 0, or set weights"
        )


# Every backbone record has `name`, `weights`, `norm` and `frozen_stages`, which the run summary and the batch norm
# checks read, and may have other keys.
BackboneConfig = Annotated[ResNetConfig | TimmConfig, Field(discriminator="type")]


class ModelConfig(StrictModel):
    """Backbone, feature pyramid, head and anchors."""

    backbone: BackboneConfig = ResNetConfig()
    """Backbone."""
    channels: Count = 256
    """Number of channels in the feature pyramid and the head."""
    p6_from: P6Source = "c5"
    """Feature map from which P6 is computed: c5 as in the paper, or p5 as in some later implementations."""
    head_convs: CountOrZero = 4
    """Number of 3x3 convolutions before the output convolution, in the class subnet and in the box subnet."""
    head_norm: HeadNorm = "none"
    """Normalisation after each of the `head_convs` convolutions. The statistics of group norm include the padding, as
    in torchvision: scores depend on the padded shape, not only on the image."""
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Initial probability of each class at every anchor; with softmax, their total over all classes."""
    class_precision: ClassPrecision = "network"
    """Precision of the convolution that computes the class logits. With `network`, bfloat16 logits have 8 significant
    bits, so many scores are equal; fp32 avoids this, at little cost with few classes."""
    class_activation: ClassActivation = "sigmoid"
    """Activation of the class logits. sigmoid: one logit per class. softmax: an extra logit, the last, for background;
    requires the `softmax_focal` loss."""
    num_classes: Annotated[Count | None, MAY_CHANGE_ON_RESUME] = None
    """Number of classes, excluding background; null: taken from the data."""
    anchors: AnchorConfig = AnchorConfig()
    """Anchors."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of each channel (RGB, 0..255); it is subtracted from images. The default is ImageNet's."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """Standard deviation of each channel (RGB, 0..255); images are divided by it. The default is ImageNet's."""

    @model_validator(mode="after")
    def groups_fit_the_channels(self) -> Self:
        # Group norm has 32 groups, each with at least 2 channels: with one, the variance on a 1x1 level is zero.
        if self.head_norm == "group" and (self.channels % 32 or self.channels < 64):
            raise ValueError(f"head_norm is group and channels is {self.channels}; set a multiple of 32, at least 64")
        return self

    @property
    def has_background_logit(self) -> bool:
        """Whether the head outputs an extra logit for background, after those of the classes."""
        return self.class_activation == "softmax"
