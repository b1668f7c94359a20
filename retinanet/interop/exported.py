"""Shared by all exporters: check that the other framework can represent a detector, and select its weights."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import ModelConfig
from retinanet.errors import InputError
from retinanet.model.pretrained import COUNTER

# Values of `model` that every framework can represent.
COMMON: Mapping[str, Collection[Any]] = {
    "in_channels": (3,),
    "backbone.type": ("resnet",),
    "backbone.norm": ("frozen", "batch", "sync"),
    "head_norm": ("none", "group"),
    "class_activation": ("sigmoid",),
    "levels": ("p3..p7",),
}


def check_exported(cfg: ModelConfig, framework: str, values: Mapping[str, Collection[Any]]) -> None:
    """Check that a framework can represent a detector.

    Args:
        framework: name of the framework for messages.
        values: values that it can represent, by key of `model`, in addition to those that all frameworks can.

    Raises:
        InputError: it cannot; the message names the first key.
    """
    for key, possible in {**COMMON, **values}.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value not in possible:
            shown = ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in possible)
            raise InputError(
                f"model.{key} is {str(value).lower() if isinstance(value, bool) else value}: {framework} cannot "
                f"represent this detector, only one with {shown}; train with that value to export the result"
            )


def exported(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights of a checkpoint, averaged if the run keeps an average, as contiguous tensors on the CPU.

    Counters of batch norm are omitted: they affect neither inference nor training.

    Raises:
        InputError: the checkpoint was trained with a custom model.
    """
    if custom := checkpoint.config.custom.model:
        raise InputError(f"the checkpoint was trained with a custom model, {custom}, which only its own code can run")
    return {
        name: value.detach().cpu().contiguous()
        for name, value in checkpoint.weights().items()
        if not name.endswith(COUNTER)
    }
