"""Length of a run, and its learning rate: scaled with the batch size, linear warm-up, then step or cosine decay."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from retinanet.config import CosineSchedule, StepsSchedule, TrainConfig

# On small datasets, epochs are short, and evaluating after each would take longer than training. With fewer images
# than the batch size, an epoch is even shorter than a step.
MIN_INTERVAL = 20  # steps


def run_length(cfg: TrainConfig, num_images: int) -> int:
    """Number of steps in a run. Epochs are counted in images, so an epoch may end in the middle of a batch."""
    if cfg.epochs is None:
        assert cfg.steps is not None
        return cfg.steps
    return math.ceil(cfg.epochs * num_images / cfg.batch_size)


def default_interval(cfg: TrainConfig, num_images: int) -> int:
    """Number of steps between evaluations, and between checkpoints, unless the config sets them.

    One epoch, rounded up to whole steps; on a small dataset, enough epochs for at least MIN_INTERVAL steps.
    """
    epoch = math.ceil(num_images / cfg.batch_size)
    return epoch * math.ceil(MIN_INTERVAL / epoch)


def effective_lr(cfg: TrainConfig) -> float:
    """The configured learning rate, scaled to the actual batch size according to `train.lr_scaling`."""
    return _scaled(cfg.optimizer.lr, cfg)


def backbone_lrs(cfg: TrainConfig, num_stages: int) -> list[float]:
    """Learning rate of each backbone stage, the first one first, scaled to the batch size like that of the head."""
    optimizer = cfg.optimizer
    last = _scaled(optimizer.lr if optimizer.backbone_lr is None else optimizer.backbone_lr, cfg)
    return [last * optimizer.layer_decay ** (num_stages - 1 - stage) for stage in range(num_stages)]


def _scaled(lr: float, cfg: TrainConfig) -> float:
    if cfg.reference_batch_size is None:
        return lr
    ratio = cfg.batch_size / cfg.reference_batch_size
    return lr * (ratio if cfg.lr_scaling == "linear" else math.sqrt(ratio))


def lr_factor(cfg: TrainConfig, step: int, num_steps: int) -> float:
    """Multiplier for the learning rate at a step, counted from 0: the warm-up factor times the schedule's factor."""
    warmup = 1.0
    if step < cfg.warmup_steps:
        warmup = cfg.warmup_factor + (1 - cfg.warmup_factor) * step / cfg.warmup_steps
    progress = step / num_steps
    match cfg.schedule:
        case StepsSchedule(milestones=milestones, gamma=gamma):
            # Round to whole steps: a milestone at 2/3 of 90k must be step 60k, not one later due to rounding errors.
            return warmup * gamma ** sum(step >= round(milestone * num_steps) for milestone in milestones)
        case CosineSchedule(end=end):
            return warmup * (end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2)


def build_schedule(optimizer: Optimizer, cfg: TrainConfig, num_steps: int) -> LambdaLR:
    """Build the learning rate schedule for a run of `num_steps` steps."""
    return LambdaLR(optimizer, lambda step: lr_factor(cfg, step, num_steps))
