"""The typed schema, the only home of defaults. `config_file.py` fills it from YAML and overrides.

Only `build_*` functions and tools read a config. Where two keys contradict each other, the schema refuses them by name.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator


class StrictModel(BaseModel):
    """Frozen, no unknown keys, no silent conversion: true is not 1, "10" is not 10."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def _as_tuple(value: Any) -> Any:
    """A single source stands for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class DataSource(StrictModel):
    """One annotation file in COCO form, and the folder that its file names are relative to."""

    images: str
    annotations: str


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(_as_tuple)]


class MergedClass(StrictModel):
    """A class made of several categories of the annotations."""

    name: str
    merge: Annotated[tuple[str, ...], Field(min_length=1)]


class ResizeTransform(StrictModel):
    """Fit the image into its batch's shape, keeping its aspect ratio."""

    type: Literal["resize"] = "resize"


class ScaleJitterTransform(StrictModel):
    """Fit times a random factor; what is then larger than the batch's shape is cropped at random."""

    type: Literal["scale_jitter"] = "scale_jitter"
    min: Positive = 0.8
    max: Positive = 1.25

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class FlipTransform(StrictModel):
    """Left and right swapped."""

    type: Literal["flip"] = "flip"
    p: Share = 0.5


class ColorTransform(StrictModel):
    """Brightness, contrast, saturation and hue, each drawn around what it was."""

    type: Literal["color"] = "color"
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.2
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.2
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


Transform = Annotated[
    ResizeTransform | ScaleJitterTransform | FlipTransform | ColorTransform, Field(discriminator="type")
]


class ResizeConfig(StrictModel):
    """How large images are, and the few padded shapes that batches come in.

    An image's shorter side becomes `shorter`, unless its longer side would pass `longer`: then that decides.
    """

    # One is drawn for each training batch.
    shorter: Annotated[tuple[Count, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (800,)
    longer: Count = 1333
    val_shorter: Count | None = None  # none: the largest of `shorter`
    # A padded shape for each: longer / shorter side. The first that holds the image is used; `longer` is the last.
    bucket_aspects: tuple[Annotated[float, Field(ge=1)], ...] = (1.0, 1.34, 1.5)
    divisor: Count = 32  # padded sides are multiples of it

    @model_validator(mode="after")
    def longer_is_longer(self) -> Self:
        largest = max((*self.shorter, self.val_shorter or 0))
        if self.longer < largest:
            raise ValueError(f"longer {self.longer} is below shorter {largest}")
        return self


class DataConfig(StrictModel):
    train: Sources = ()
    val: Sources = ()
    # none: all categories of the training set, by their ids
    classes: Annotated[tuple[str | MergedClass, ...], Field(min_length=1)] | None = None
    keep_empty: bool = True  # whether images without boxes are trained on
    strict: bool = False  # refuse unusable boxes; else they are dropped, counted and listed once
    max_pixels: Count = 100_000_000  # a larger image is refused before it is decoded
    # Images that cannot be read while training are replaced by others; with more of them than this a run ends.
    max_unreadable: Annotated[int, Field(ge=0)] = 10
    workers: Annotated[int, Field(ge=0)] = 2  # processes that read images; 0 reads in the training process
    resize: ResizeConfig = ResizeConfig()
    transforms: tuple[Transform, ...] = (ResizeTransform(), FlipTransform())

    @model_validator(mode="after")
    def one_resize(self) -> Self:
        kinds = [step.type for step in self.transforms if step.type in ("resize", "scale_jitter")]
        if len(kinds) != 1:
            raise ValueError(f"transforms has {kinds or 'no resize'}; give exactly one of resize and scale_jitter")
        return self


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


class ModelConfig(StrictModel):
    backbone: Literal[
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
    channels: Count = 256  # of the pyramid and the heads
    p6_from: Literal["c5", "p5"] = "c5"
    # Keeps less of the backbone for the backward pass, and computes it again: less memory, more time, the same numbers.
    checkpoint_activations: bool = False
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
    def nothing_random_is_frozen(self) -> Self:
        if self.weights == "none" and self.frozen_stages > 0:
            raise ValueError(
                f"weights is none and frozen_stages is {self.frozen_stages}: random weights would never change; "
                "set frozen_stages: 0, or give weights"
            )
        # 32 groups, and no group of one channel: on a level of one cell it would have nothing to normalise.
        if self.head_norm == "group" and (self.channels % 32 or self.channels < 64):
            raise ValueError(
                f"head_norm is group and channels is {self.channels}; give a multiple of 32 from 64 upwards"
            )
        return self


class IoUAssignmentConfig(StrictModel):
    type: Literal["iou"] = "iou"
    fg_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    bg_iou: Share = 0.4
    low_quality_matches: bool = True
    ignore_ioa: Share = 0.5  # 0: crowd regions are background

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.bg_iou > self.fg_iou:
            raise ValueError(f"bg_iou {self.bg_iou} is above fg_iou {self.fg_iou}")
        return self


def _form(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "text" if isinstance(value, str) else "number"


# The weight of an anchor's own class, where every other class weighs 1 minus it. A list has one a class; null: all
# weigh 1. "inverse_frequency" is worked out from the objects of the training data when a run starts.
ClassAlpha = Annotated[
    Annotated[Share | None, Tag("number")]
    | Annotated[tuple[Share, ...], Field(min_length=1), Tag("list")]
    | Annotated[Literal["inverse_frequency"], Tag("text")],
    Discriminator(_form),
]


class ATSSAssignmentConfig(StrictModel):
    type: Literal["atss"] = "atss"
    anchors_per_level: Count = 9  # for each object, the nearest; 9 anchors in a cell are one cell
    ignore_ioa: Share = 0.5  # 0: crowd regions are background


def _iou_unless_named(value: Any) -> Any:
    """Configs of older checkpoints have no type: there was only one."""
    return {"type": "iou"} | value if isinstance(value, dict) else value


AssignmentConfig = Annotated[
    Annotated[IoUAssignmentConfig | ATSSAssignmentConfig, Field(discriminator="type")],
    BeforeValidator(_iou_unless_named),
]


class FocalConfig(StrictModel):
    type: Literal["focal"] = "focal"
    alpha: ClassAlpha = 0.25
    gamma: Annotated[float, Field(ge=0)] = 2.0


class CrossEntropyConfig(StrictModel):
    """The focal loss with gamma 0."""

    type: Literal["cross_entropy"] = "cross_entropy"
    alpha: ClassAlpha = None


class FocalStarConfig(StrictModel):
    """FL* of the paper's appendix."""

    type: Literal["focal_star"] = "focal_star"
    gamma: Positive = 2.0
    beta: float = 1.0


class HingeConfig(StrictModel):
    """On the probability of what is true. The paper found it unstable."""

    type: Literal["hinge"] = "hinge"


class OHEMConfig(StrictModel):
    """Cross entropy on the hardest anchors of each image."""

    type: Literal["ohem"] = "ohem"
    keep: Count = 512  # anchors an image
    nms_iou: Share | None = 0.7  # of two anchors that overlap by more, the harder one is looked at; null: all are
    one_to_three: bool = False  # at most three negatives for a positive


class QualityFocalConfig(StrictModel):
    """An object's target is the IoU of its predicted box, of a focal loss."""

    type: Literal["quality_focal"] = "quality_focal"
    beta: Annotated[float, Field(ge=0)] = 2.0


class VarifocalConfig(StrictModel):
    """The same, and an object weighs as much as its target; what is none weighs `alpha`."""

    type: Literal["varifocal"] = "varifocal"
    alpha: Annotated[float, Field(ge=0)] = 0.75
    gamma: Annotated[float, Field(ge=0)] = 2.0


class SoftmaxFocalConfig(StrictModel):
    """Of a head with a softmax. Background is a class that weighs 1 minus the mean of the others; null: all weigh 1."""

    type: Literal["softmax_focal"] = "softmax_focal"
    alpha: ClassAlpha = None
    gamma: Annotated[float, Field(ge=0)] = 2.0


WeighedByClass = FocalConfig | CrossEntropyConfig | SoftmaxFocalConfig
ClassLossConfig = WeighedByClass | FocalStarConfig | HingeConfig | OHEMConfig | QualityFocalConfig | VarifocalConfig


class SmoothL1Config(StrictModel):
    type: Literal["smooth_l1"] = "smooth_l1"
    beta: Annotated[float, Field(ge=0)] = 0.1  # 0 is L1


class GIoUConfig(StrictModel):
    type: Literal["giou"] = "giou"


class DIoUConfig(StrictModel):
    type: Literal["diou"] = "diou"


class CIoUConfig(StrictModel):
    type: Literal["ciou"] = "ciou"


BoxLossConfig = SmoothL1Config | GIoUConfig | DIoUConfig | CIoUConfig


class LossConfig(StrictModel):
    classification: Annotated[ClassLossConfig, Field(discriminator="type")] = FocalConfig()
    box: Annotated[BoxLossConfig, Field(discriminator="type")] = SmoothL1Config()
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    box_weight: Annotated[float, Field(ge=0)] = 1.0


class PostprocessConfig(StrictModel):
    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.05
    top_k: Count = 1000
    nms_iou: Share = 0.5
    max_detections: Count = 100


class InferenceConfig(StrictModel):
    """How a trained network runs in prediction."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False  # each padded shape costs a minute or so, paid back over many images


class SGDConfig(StrictModel):
    type: Literal["sgd"] = "sgd"
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    norm_weight_decay: Annotated[float, Field(ge=0)] = 0.0  # of norms and biases


class AdamWConfig(StrictModel):
    type: Literal["adamw"] = "adamw"
    lr: Positive = 1e-4
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    norm_weight_decay: Annotated[float, Field(ge=0)] = 0.0  # of norms and biases


class StepsSchedule(StrictModel):
    """The learning rate times `gamma` at each milestone."""

    type: Literal["steps"] = "steps"
    milestones: tuple[Share, ...] = (2 / 3, 8 / 9)  # shares of the run; the paper's 60k and 80k of 90k
    gamma: Positive = 0.1


class CosineSchedule(StrictModel):
    """Half a cosine from 1 down to `end`."""

    type: Literal["cosine"] = "cosine"
    end: Share = 0.0


class TrainConfig(StrictModel):
    batch_size: Count = 16  # of the whole step: over all processes and all parts that are accumulated
    accumulate: Count = 1  # parts that each process cuts its share of a batch into, one after the other
    epochs: Positive | None = None  # exactly one of epochs and steps
    steps: Count | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    deterministic: bool = False  # the same bits again on the same machine, slower
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    # auto: network and class loss on CUDA, where a compiler is found; on a CPU nothing
    compile: Literal["auto"] | bool = "auto"
    optimizer: Annotated[SGDConfig | AdamWConfig, Field(discriminator="type")] = SGDConfig()
    schedule: Annotated[StepsSchedule | CosineSchedule, Field(discriminator="type")] = StepsSchedule()
    # lr is meant for this batch size; another one scales it by the rule. None: lr is taken as it is.
    reference_batch_size: Count | None = 16
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    warmup_factor: Share = 0.001  # of the learning rate at the first step
    clip_norm: Positive | None = 10.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None  # averages the weights, and uses the average
    init_from: str | None = None  # a checkpoint to start from; its classes are matched by name
    # Where a gradient is not finite, nothing is changed: the run stops with a report, or that step alone is left out.
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: Count = 10  # steps left out before a run stops all the same
    allow_local_norm: bool = False  # norm: batch on several processes, each with the statistics of its own images
    log_every: Count = 20  # steps
    save_every: Count | None = None  # steps; none: once an epoch
    eval_every: Count | None = None  # steps; none: once an epoch; the last step is always evaluated
    eval_batch_size: Count | None = None  # images that a process evaluates at once; none: batch_size
    keep_checkpoints: Count = 2  # besides the best
    early_stop: Count | None = None  # evaluations in a row without a better AP, after which a run ends
    max_hours: Positive | None = None  # of training, over all its resumptions; then the run is saved and ends
    stall_timeout: Positive = 600.0  # seconds without a step, after which stacks are written and the run ends
    grace: Positive = 25.0  # seconds between a signal to stop and the end without saving

    @model_validator(mode="after")
    def one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            given = "both epochs and steps" if self.steps is not None else "neither epochs nor steps"
            raise ValueError(f"{given} given; set exactly one, the other is null")
        return self


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
