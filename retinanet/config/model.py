"""`model`: backbone, feature pyramid, head and anchors."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from retinanet.config.base import (
    MAY_CHANGE_ON_RESUME,
    PATH,
    Count,
    CountOrZero,
    NonNegative,
    Positive,
    StrictModel,
    type_by_default,
)
from retinanet.errors import InputError

Norm = Literal["frozen", "batch", "sync", "group"]
TimmNorm = Literal["frozen", "batch", "sync"]
HeadNorm = Literal["none", "group", "batch_per_level", "sync_per_level"]
ClassPrecision = Literal["network", "fp32"]
P6Source = Literal["c5", "p5"]
Levels = Literal["p2..p7", "p2..p6", "p2..p5", "p3..p7", "p3..p6", "p3..p5"]
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
WITHOUT_1X1 = ("resnet18", "resnet34", "resnet10_half")  # their blocks have no 1x1 convolution except the shortcut
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)
KEYS_OF_IMAGES = ("in_channels", "mean", "std")  # keys of `model` that describe the images


SIZE_IN_STRIDES = 4.0  # default anchor size; the paper's anchors have 32 pixels at stride 8, up to 512 at stride 128


def level_numbers(levels: Levels) -> range:
    """Numbers of the pyramid levels: "p3..p7" -> 3, 4, 5, 6, 7."""
    first, last = levels.split("..")
    return range(int(first[1:]), int(last[1:]) + 1)


def level_strides(levels: Levels) -> tuple[int, ...]:
    """Stride of each pyramid level in pixels: level l has 2^l."""
    return tuple(2**number for number in level_numbers(levels))


class AnchorConfig(StrictModel):
    """Anchors on each pyramid level (Lin et al. 2017, section 4)."""

    strides: tuple[Count, ...] = level_strides("p3..p7")
    """Stride of each level, in pixels. They follow from `model.levels`; omit this key."""
    sizes: tuple[Positive, ...] = tuple(SIZE_IN_STRIDES * stride for stride in level_strides("p3..p7"))
    """Anchor size on each level, in pixels: the square root of the anchor's area at scale 1. If omitted, 4 times the
    stride: 32 to 512 for p3..p7, as in the paper, and 16 to 512 for p2..p7."""
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    """Factors by which each size is multiplied."""
    aspect_ratios: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Aspect ratios as height / width."""
    offset: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Position of anchor centres within a cell, in units of the stride; 0.5 is the middle."""
    rounding: AnchorRounding = "none"
    """Rounding of anchors. torchvision: round to whole pixels, as torchvision's weights expect."""

    @property
    def following_levels(self) -> set[str]:
        """Names of the settings that have their default values, which are derived again if `model.levels` changes."""
        is_default = self.sizes == tuple(SIZE_IN_STRIDES * stride for stride in self.strides)
        return {"strides", "sizes"} if is_default else {"strides"}


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
    norm_eps: NonNegative = 1e-5
    """Constant that is added to the variance in each norm. torchvision's COCO_V1 weights of `retinanet_resnet50_fpn`
    expect 0."""
    stride_in_1x1: bool = False
    """Whether blocks that halve the resolution do so in their first 1x1 convolution instead of the 3x3 convolution, as
    in the original ResNet, whose weights Detectron2 uses."""
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
    def has_1x1_convolutions(self) -> Self:
        if self.stride_in_1x1 and self.name in WITHOUT_1X1:
            raise ValueError(f"stride_in_1x1 is set, but {self.name} has no 1x1 convolutions; set it to false")
        return self

    @model_validator(mode="after")
    def nothing_random_is_frozen(self) -> Self:
        reject_frozen_random_weights(self.weights, self.frozen_stages)
        return self


class TimmConfig(StrictModel):
    """A network from timm with feature maps of strides 8, 16 and 32. It needs `pip install retinanet[timm]`."""

    type: Literal["timm"] = "timm"
    name: Annotated[str, Field(min_length=1)]
    """Architecture, one of `timm.list_models()`, such as convnext_tiny, without the name of its weights."""
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
BackboneConfig = Annotated[Annotated[ResNetConfig | TimmConfig, Field(discriminator="type")], type_by_default("resnet")]


class ModelConfig(StrictModel):
    """Backbone, feature pyramid, head and anchors."""

    backbone: BackboneConfig = ResNetConfig()
    """Backbone."""
    channels: Count = 256
    """Number of channels in the feature pyramid and the head."""
    levels: Levels = "p3..p7"
    """Pyramid levels, from the finest to the coarsest: level l has a stride of 2^l pixels. p2 adds a level for small
    objects, with four times the positions of p3, at a high cost in time and memory (docs/small_objects.md)."""
    p6_from: P6Source = "c5"
    """Feature map from which P6 is computed: c5 as in the paper, or p5 as in some later implementations."""
    head_convs: CountOrZero = 4
    """Number of 3x3 convolutions before the output convolution, in the class subnet and in the box subnet."""
    head_norm: HeadNorm = "none"
    """Normalisation after each of the `head_convs` convolutions. The statistics of group norm include the padding, as
    in torchvision: scores depend on the padded shape, not only on the image. batch_per_level: all levels share the
    convolutions, but each has its own batch norm, because the statistics of features differ between levels.
    sync_per_level: the same, with statistics over all processes."""
    head_conv_bias: bool = True
    """Whether the convolutions before group norm have biases; false for the weights of torchvision's
    `retinanet_resnet50_fpn_v2`. Before batch norm, they never have any."""
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
    in_channels: Annotated[int, Field(ge=1, le=16)] = 3
    """Number of channels of the images: 3 for RGB, 1 for greyscale, or the number of bands. For any number other than
    3, set `mean` and `std`; `retinanet check` computes them. Pretrained RGB weights are adapted."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel (0..255, after scaling to 8 bits); it is subtracted from images. The default, ImageNet's, is
    only for three channels (RGB)."""
    std: tuple[Positive, ...] = IMAGENET_STD
    """Standard deviation of each channel (0..255); images are divided by it. The default is as for `mean`."""

    @model_validator(mode="after")
    def one_statistic_per_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.in_channels and self.has_statistics:
                raise ValueError(
                    f"in_channels is {self.in_channels} and {name} has {len(values)} value(s); set one for each channel"
                )
        return self

    @field_validator("anchors")
    @classmethod
    def anchors_follow_the_levels(cls, anchors: AnchorConfig, info: ValidationInfo) -> AnchorConfig:
        if "levels" not in info.data:  # invalid, which is a separate error
            return anchors
        levels: Levels = info.data["levels"]
        strides = level_strides(levels)
        defaults = {"strides": strides, "sizes": tuple(SIZE_IN_STRIDES * stride for stride in strides)}
        anchors = anchors.model_copy(
            update={name: value for name, value in defaults.items() if name not in anchors.model_fields_set}
        )
        if anchors.strides != strides:
            raise ValueError(
                f"strides are {anchors.strides}, but the levels {levels} (model.levels) have {strides}; remove strides"
            )
        if len(anchors.sizes) != len(strides):
            raise ValueError(
                f"{len(anchors.sizes)} sizes, but {len(strides)} levels: {levels} (model.levels); set one size per "
                "level, or remove sizes"
            )
        return anchors

    @model_validator(mode="after")
    def p6_has_a_source(self) -> Self:
        if self.p6_from == "p5" and 6 not in level_numbers(self.levels):
            raise ValueError(f"p6_from is p5, but the levels {self.levels} have no P6; remove p6_from")
        return self

    @model_validator(mode="after")
    def groups_fit_the_channels(self) -> Self:
        # Group norm has 32 groups, each with at least 2 channels: with one, the variance on a 1x1 level is zero.
        if self.head_norm == "group" and (self.channels % 32 or self.channels < 64):
            raise ValueError(f"head_norm is group and channels is {self.channels}; set a multiple of 32, at least 64")
        return self

    @model_validator(mode="after")
    def norms_replace_the_biases(self) -> Self:
        if not self.head_conv_bias and self.head_norm == "none":
            raise ValueError("head_conv_bias is false and head_norm is none; set head_conv_bias: true, or head_norm")
        return self

    @property
    def has_statistics(self) -> bool:
        """Whether mean and standard deviation are known: ImageNet's, which are the default, are those of RGB images."""
        return self.in_channels == 3 or (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD)

    def require_statistics(self) -> None:
        """Check that mean and standard deviation are set if ImageNet's do not apply.

        Raises:
            InputError: they are not.
        """
        if not self.has_statistics:
            raise InputError(
                f"model.in_channels is {self.in_channels}, but model.mean and model.std are not set; the defaults, "
                f"ImageNet's, are only for RGB images; `retinanet check DATA model.in_channels={self.in_channels}` "
                "computes them from the training images and prints the lines to set"
            )

    @property
    def of_images(self) -> Self:
        """Only the keys that also apply to a model passed in Python: `KEYS_OF_IMAGES`, unless the images are RGB."""
        if self.in_channels == 3:
            return type(self)()
        return type(self)(in_channels=self.in_channels, mean=self.mean, std=self.std)

    @property
    def has_background_logit(self) -> bool:
        """Whether the head outputs an extra logit for background, after those of the classes."""
        return self.class_activation == "softmax"
