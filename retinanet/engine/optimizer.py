"""Optimizer and weight decay groups."""

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from retinanet.config import SGDConfig, TrainConfig
from retinanet.engine.schedule import effective_lr

# Modules whose `weight` decays.
WEIGHT_DECAY_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def build_optimizer(model: nn.Module, cfg: TrainConfig) -> Optimizer:
    """SGD or AdamW over the trainable parameters, with a separate weight decay for norms and biases."""
    weights, norms_and_biases = weight_decay_groups(model)
    settings = cfg.optimizer
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": norms_and_biases, "weight_decay": settings.norm_weight_decay},
    ]
    lr = effective_lr(cfg)
    if not isinstance(settings, SGDConfig):
        return AdamW(groups, lr=lr, betas=settings.betas, fused=True)
    optimizer = SGD(groups, lr=lr, momentum=settings.momentum, fused=True)
    if settings.momentum > 0:
        # The fused kernel leaves a momentum buffer uninitialised if its first step is skipped, and fails on a parameter
        # without a gradient in the first step. Zeros are correct in both cases.
        for parameter in (*weights, *norms_and_biases):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict, and give every momentum the memory layout of its parameter.

    A checkpoint may come from a machine that uses channels last. The fused kernels ignore strides: momentum in another
    layout would be applied to the wrong weights, without an error.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def weight_decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters in the order of the model: weights of convolutions and linear layers; then all others,
    which are the parameters of norms and the biases."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, WEIGHT_DECAY_MODULES)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if id(p) in decayed], [p for p in trained if id(p) not in decayed]
