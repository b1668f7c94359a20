"""Optimizer, weight decay groups, and the learning rate over the run."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from retinanet.config import CosineSchedule, SGDConfig, StepsSchedule, TrainConfig


def build_optimizer(model: nn.Module, cfg: TrainConfig) -> Optimizer:
    """SGD or AdamW over what can learn; norms and biases have a weight decay of their own."""
    decayed, plain = weight_decay_groups(model)
    settings = cfg.optimizer
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": settings.norm_weight_decay},
    ]
    lr = effective_lr(cfg)
    if not isinstance(settings, SGDConfig):
        return AdamW(groups, lr=lr, betas=settings.betas, fused=True)
    optimizer = SGD(groups, lr=lr, momentum=settings.momentum, fused=True)
    if settings.momentum > 0:
        # The fused kernel leaves the first buffer uninitialised where its first step is skipped, and fails on a
        # parameter whose first gradient comes late. Zeros are what both should have been.
        for parameter in (*decayed, *plain):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict, with every momentum laid out in memory as its parameter is here.

    A checkpoint may be from a machine where channels came last. The fused kernels walk through memory without a look at
    the layout: a momentum in another one would go to other weights, without an error.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def weight_decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of convolutions; then norms and biases, which are vectors."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim <= 1]


def effective_lr(cfg: TrainConfig) -> float:
    """The configured learning rate, scaled from the reference batch size to the batch size by the rule."""
    if cfg.reference_batch_size is None:
        return cfg.optimizer.lr
    ratio = cfg.batch_size / cfg.reference_batch_size
    return cfg.optimizer.lr * (ratio if cfg.lr_scaling == "linear" else math.sqrt(ratio))


def lr_factor(cfg: TrainConfig, step: int, num_steps: int) -> float:
    """What the learning rate is multiplied by at a step: linear warm-up, times the schedule."""
    warmup = 1.0
    if step < cfg.warmup_steps:
        warmup = cfg.warmup_factor + (1 - cfg.warmup_factor) * step / cfg.warmup_steps
    progress = step / num_steps
    match cfg.schedule:
        case StepsSchedule(milestones=milestones, gamma=gamma):
            # In whole steps, so that a milestone of 2/3 of 90k is step 60k and not one later by rounding.
            return warmup * gamma ** sum(step >= round(milestone * num_steps) for milestone in milestones)
        case CosineSchedule(end=end):
            return warmup * (end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2)


def build_schedule(optimizer: Optimizer, cfg: TrainConfig, num_steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: lr_factor(cfg, step, num_steps))
