"""`train`: batches, optimizer, schedule, checkpoints and evaluation of a run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retinanet.config.base import Count, Momentum, Positive, Share, StrictModel


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
    best_metric: Literal["AP", "AP50", "AP75", "APs", "APm", "APl", "loss"] = "AP"  # decides best.pt and early_stop
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
