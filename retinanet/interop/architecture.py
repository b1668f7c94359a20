"""Find the architecture that weights belong to, and convert their names and shapes to ours."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from retinanet.config.model import ModelConfig, ResNetName
from retinanet.errors import InputError
from retinanet.model.pretrained import COUNTER
from retinanet.model.resnet import ResNet
from retinanet.model.retinanet import build_model

Names = Callable[[str], str]  # our name of a tensor -> the other framework's
NUM_ANCHORS = 9  # 3 aspect ratios and 3 scales in each cell


def renamed(name: str, table: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]) -> str:
    """Apply every row of a table of (regular expression, replacement) to a name."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def subnet_layer(name: str, num_convs: int, *, has_norm: bool) -> str:
    """Number the layers of a subnet by convolution and part, and call the last convolution `last`.

    With a norm, `head.class_subnet.4.weight` becomes `head.class_subnet.1.1.weight`: the norm of the second
    convolution. Other names are returned unchanged.
    """
    match = re.fullmatch(r"(head\.\w+_subnet)\.(\d+)\.(\w+)", name)
    if match is None:
        return name
    subnet, layer, kind = match[1], int(match[2]), match[3]
    convolution, part = divmod(layer, _layers_per_convolution(has_norm))
    place = "last" if convolution == num_convs else f"{convolution}.{part}"
    return f"{subnet}.{place}.{kind}"


def last_layer(num_convs: int, *, has_norm: bool) -> int:
    """Position of the last convolution in our subnets."""
    return num_convs * _layers_per_convolution(has_norm)


def _layers_per_convolution(has_norm: bool) -> int:
    return 3 if has_norm else 2  # the convolution, its norm and ReLU


def find_resnet(state: Mapping[str, Tensor], prefix: str, names: Names, *, source: str) -> ResNetName:
    """Find the residual network whose tensors are those in a state dict that begin with `prefix`.

    Raises:
        InputError: no network that a config can select has these tensors.
    """
    found = {name: value.shape for name, value in state.items() if name.startswith(prefix) and COUNTER not in name}
    for resnet in get_args(ResNetName):
        with torch.device("meta"):
            tensors = ResNet(resnet, norm="frozen", frozen_stages=0).state_dict()
        if found == {names(f"backbone.{name}"): value.shape for name, value in tensors.items()}:
            return resnet
    raise InputError(
        f"{source}: its backbone is none of {', '.join(get_args(ResNetName))}, with batch norm; only detectors with "
        "these backbones are imported"
    )


def shape_of(state: Mapping[str, Tensor], name: str, *, source: str) -> torch.Size:
    """Shape of a tensor that every detector of a framework has.

    Raises:
        InputError: there is no such tensor.
    """
    if name not in state:
        raise InputError(
            f"{source}: has no {name}, so it is not a RetinaNet, or only a part of one; for the weights of a backbone "
            "alone, set model.backbone.weights"
        )
    return state[name].shape


def convert(
    state: Mapping[str, Tensor], cfg: ModelConfig, num_classes: int, names: Names, *, source: str
) -> dict[str, Tensor]:
    """Select the tensors of a network with this config, under our names.

    Raises:
        InputError: tensors are missing, have another shape, or are left over.
    """
    with torch.device("meta"):
        expected = {name: value.shape for name, value in build_model(cfg, num_classes).state_dict().items()}
    theirs = {name: names(name) for name in expected}
    missing = [name for name in theirs.values() if name not in state]
    known = set(theirs.values())
    unknown = [name for name in state if name not in known and not name.endswith(COUNTER)]
    misshapen = [
        f"{theirs[name]} {tuple(state[theirs[name]].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if theirs[name] in state and state[theirs[name]].shape != shape
    ]
    if missing or unknown or misshapen:
        parts = [("missing", missing), ("unknown", unknown), ("with another shape", misshapen)]
        listed = ", ".join(
            f"{len(found)} {kind} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
            for kind, found in parts
            if found
        )
        raise InputError(f"{source}: is not a RetinaNet that can be imported: {listed}")
    return {name: state[theirs[name]] for name in expected}


def class_rows(tensor: Tensor, labels: list[int], num_labels: int) -> Tensor:
    """Rows of some classes of the weight or bias of the last class convolution: (a * K, ...) -> (a * len(labels), ...).

    Args:
        labels: classes to select, in their new order.
        num_labels: K, the number of classes before.
    """
    return tensor.unflatten(0, (-1, num_labels))[:, labels].flatten(0, 1)
