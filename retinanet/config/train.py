"""`train`: batches, optimizer, schedule, checkpoints and evaluation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retinanet.config.base import (
    MAY_CHANGE_ON_RESUME,
    NO_EFFECT_ON_RESULTS,
    PATH,
    APMetric,
    Count,
    CountOrZero,
    Momentum,
    NonNegative,
    Positive,
    Precision,
    Share,
    StrictModel,
)

CompileSetting = Literal["auto"] | bool
LRScaling = Literal["linear", "sqrt"]
NonFiniteAction = Literal["stop", "skip"]
BestMetric = Literal[APMetric, "loss"]
Tracker = Literal["wandb", "mlflow", "trackio"]
LayerDecay = Annotated[float, Field(gt=0, le=1)]


class SGDConfig(StrictModel):
    """Stochastic gradient descent with momentum."""

    type: Literal["sgd"] = "sgd"
    lr: Positive = 0.01
    """Learning rate for batches of `reference_batch_size` images."""
    momentum: Momentum = 0.9
    """Momentum factor."""
    weight_decay: NonNegative = 1e-4
    """Weight decay for convolution weights."""
    norm_weight_decay: NonNegative = 0.0
    """Weight decay for norms and biases."""
    backbone_lr: Positive | None = None
    """Learning rate of the backbone, scaled like `lr`; null: `lr`."""
    layer_decay: LayerDecay = 1.0
    """Learning rate of each backbone stage as a multiple of that of the next stage; the last one has `backbone_lr`. The
    stages of a ResNet are the stem and its four residual stages."""


class AdamWConfig(StrictModel):
    """Adam with decoupled weight decay."""

    type: Literal["adamw"] = "adamw"
    lr: Positive = 1e-4
    """Learning rate for batches of `reference_batch_size` images."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """Decay rates for the running averages of the gradient and the squared gradient."""
    weight_decay: NonNegative = 0.05
    """Weight decay for convolution weights."""
    norm_weight_decay: NonNegative = 0.0
    """Weight decay for norms and biases."""
    backbone_lr: Positive | None = None
    """Learning rate of the backbone, scaled like `lr`; null: `lr`."""
    layer_decay: LayerDecay = 1.0
    """Learning rate of each backbone stage as a multiple of that of the next stage; the last one has `backbone_lr`. The
    stages of a ResNet are the stem and its four residual stages."""


class StepsSchedule(StrictModel):
    """Multiply the learning rate by `gamma` at each milestone."""

    type: Literal["steps"] = "steps"
    milestones: tuple[Share, ...] = (2 / 3, 8 / 9)
    """Milestones as fractions of the run. The default is the paper's schedule: steps 60k and 80k of 90k."""
    gamma: Positive = 0.1
    """Factor by which the learning rate is multiplied at each milestone."""


class CosineSchedule(StrictModel):
    """Decay the learning rate along half a cosine."""

    type: Literal["cosine"] = "cosine"
    end: Share = 0.0
    """Multiplier for the learning rate at the end of the run; at the start it is 1."""


class TrainConfig(StrictModel):
    """Batches, optimizer, schedule, checkpoints and evaluation."""

    batch_size: Count = 16
    """Images per optimizer step, over all processes and all accumulated micro-batches."""
    accumulate: Annotated[Count, MAY_CHANGE_ON_RESUME] = 1
    """Number of micro-batches into which each process splits its share of the batch, to save memory. Gradients stay
    the same, except with `norm: batch` or `sync`, whose statistics cover one micro-batch at a time."""
    epochs: Positive | None = None
    """Length of the run in epochs. Set exactly one of `epochs` and `steps`."""
    steps: Count | None = None
    """Length of the run in optimizer steps. Set exactly one of `epochs` and `steps`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed for the initial weights, the order of images, and augmentation."""
    deterministic: bool = False
    """Whether to make runs bit-for-bit reproducible on one machine, at the cost of speed."""
    precision: Precision = "auto"
    """Precision of the network; auto: bf16 if the hardware supports it, otherwise fp32."""
    compile: Annotated[CompileSetting, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = "auto"
    """Whether to use torch.compile. auto: compile the network and the class loss on CUDA if a compiler is installed,
    but not on a CPU."""
    optimizer: Annotated[SGDConfig | AdamWConfig, Field(discriminator="type")] = SGDConfig()
    """Optimizer."""
    schedule: Annotated[StepsSchedule | CosineSchedule, Field(discriminator="type")] = StepsSchedule()
    """Learning-rate schedule after the warm-up."""
    reference_batch_size: Count | None = 16
    """Batch size for which `lr` is set; for a different `batch_size`, `lr` is scaled. null: no scaling."""
    lr_scaling: LRScaling = "linear"
    """How the learning rate scales with the batch size: linearly, or with its square root."""
    warmup_steps: CountOrZero = 1000
    """Number of steps over which the learning rate increases linearly to its full value."""
    warmup_factor: Share = 0.001
    """Multiplier for the learning rate at the first warm-up step."""
    freeze_backbone_steps: CountOrZero = 0
    """Number of steps at the start of the run during which the backbone does not change; its norms use their running
    statistics. `backbone.frozen_stages` are frozen in the whole run."""
    clip_norm: Positive | None = 10.0
    """Maximum gradient norm; larger gradients are scaled down. null: no clipping."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights, used for evaluation; null: no averaging."""
    init_from: Annotated[str | None, PATH, MAY_CHANGE_ON_RESUME] = None
    """Trained detector to load initial weights from: a checkpoint, a file of weights, or a name such as
    torchvision:retinanet_resnet50_fpn_v2 (docs/weights.md). Classes are matched by name."""
    on_nonfinite: Annotated[NonFiniteAction, MAY_CHANGE_ON_RESUME] = "stop"
    """What to do if a gradient is not finite; such a step never changes the weights. stop: stop the run with a report.
    skip: skip the step and continue."""
    max_skipped: Annotated[Count, MAY_CHANGE_ON_RESUME] = 10
    """Maximum number of skipped steps before the run stops."""
    allow_local_norm: Annotated[bool, MAY_CHANGE_ON_RESUME] = False
    """Whether to allow `norm: batch` or `head_norm: batch_per_level` with several processes, each of which then
    normalises over its own images only."""
    log_every: Annotated[Count, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = 20
    """Number of steps between log lines."""
    trackers: Annotated[tuple[Tracker, ...], MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = ()
    """Services to log to besides TensorBoard: wandb (Weights & Biases), mlflow, trackio. They are configured by their
    own environment variables, such as WANDB_PROJECT and MLFLOW_TRACKING_URI."""
    save_every: Annotated[Count | None, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = None
    """Number of steps between checkpoints; null: one epoch, or enough epochs for at least 20 steps."""
    eval_every: Count | None = None
    """Number of steps between evaluations; null: one epoch, or enough epochs for at least 20 steps. There is always an
    evaluation after the last step."""
    eval_batch_size: Annotated[Count | None, MAY_CHANGE_ON_RESUME] = None
    """Batch size of each process in evaluation; null: `batch_size`."""
    keep_checkpoints: Annotated[Count, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = 2
    """Number of most recent checkpoints to keep besides the best one."""
    best_metric: Annotated[BestMetric, MAY_CHANGE_ON_RESUME] = "AP"
    """Metric that selects best.pt and that `early_stop` monitors."""
    early_stop: Annotated[Count | None, MAY_CHANGE_ON_RESUME] = None
    """Stop the run after this many consecutive evaluations without a better `best_metric`; null: never."""
    max_hours: Annotated[Positive | None, MAY_CHANGE_ON_RESUME] = None
    """Save and stop after this many hours of training, counted across resumes; null: no limit."""
    stall_timeout: Annotated[Positive, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = 600.0
    """Seconds without progress after which every process writes its stack traces and the run stops."""
    grace: Annotated[Positive, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = 25.0
    """Seconds that a run may take to save a checkpoint after a stop signal before it exits without saving."""

    @model_validator(mode="after")
    def one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            found = "both epochs and steps are" if self.steps is not None else "neither epochs nor steps is"
            raise ValueError(f"{found} set; set exactly one, and the other to null")
        return self
