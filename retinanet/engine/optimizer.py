"""Optimizer, and its parameter groups with different learning rates and weight decay."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from retinanet.config import SGDConfig, TrainConfig
from retinanet.engine.schedule import backbone_lrs, effective_lr

# Modules with weight decay for `weight`.
WEIGHT_DECAY_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def build_optimizer(model: nn.Module, cfg: TrainConfig, stages: Sequence[Sequence[nn.Parameter]] = ()) -> Optimizer:
    """Build SGD or AdamW for the trainable parameters, with a separate weight decay for norms and biases.

    There are two parameter groups, decayed weights first. If the learning rates of the backbone differ from `lr`, these
    two are followed by two for each stage that is trained, the first stage first.

    Args:
        stages: parameters of each stage of the backbone, the first stage first; see `Backbone.stages`.
    """
    settings, lr = cfg.optimizer, effective_lr(cfg)
    stage_lrs = backbone_lrs(cfg, len(stages))
    if all(stage_lr == lr for stage_lr in stage_lrs):
        stages, stage_lrs = (), []
    stage_of = {id(parameter): number for number, stage in enumerate(stages) for parameter in stage}
    weights, norms_and_biases = weight_decay_groups(model)
    groups: list[dict[str, Any]] = []
    for stage, group_lr in [(None, lr), *enumerate(stage_lrs)]:
        decayed, others = ([p for p in part if stage_of.get(id(p)) == stage] for part in (weights, norms_and_biases))
        if stage is None or decayed or others:
            groups.append({"params": decayed, "lr": group_lr, "weight_decay": settings.weight_decay})
            groups.append({"params": others, "lr": group_lr, "weight_decay": settings.norm_weight_decay})
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
