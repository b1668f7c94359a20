"""Optimizer and weight decay groups."""

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from retinanet.config import SGDConfig, TrainConfig
from retinanet.engine.schedule import effective_lr

# Modules with weight decay for `weight`.
WEIGHT_DECAY_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def build_optimizer(model: nn.Module, cfg: TrainConfig) -> Optimizer:
    """Build SGD or AdamW for the trainable parameters, with a separate weight decay for norms and biases."""
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
        # The fused kernel leaves momentum buffers uninitialised if the first step is skipped, and fails if a parameter
        # has no gradient in the first step. Zeros are correct in both cases.
        for parameter in (*weights, *norms_and_biases):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict, and convert each momentum buffer to the memory layout of its parameter.

    The checkpoint may come from a machine that uses a different memory format, such as channels last. The fused kernels
    ignore strides, so momentum in a different layout would silently be applied to the wrong weights.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def weight_decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters, in model order, into two groups for weight decay.

    The first contains the weights of convolutions and linear layers, the second the norm parameters and biases.
    """
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, WEIGHT_DECAY_MODULES)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if id(p) in decayed], [p for p in trained if id(p) not in decayed]
