"""The structure of a timm network: feature maps, stages and accepted image sizes, found without weights or data."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from retinanet.errors import InputError, first_line

MAX_STRIDE = 32
# Divisors of both sides of the images that are tried, in this order. A network accepts its divisor's multiples.
DIVISORS = (1, 8, 32, 64, 128, 224, 256, 384, 448, 512)
SMALL_SIDE = 64  # pixels; images for tests have at least this size


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The structure of a timm network that is a possible backbone.

    Args:
        indices: index in timm's `out_indices` of the feature map of each stride up to 32, ordered by stride.
        channels: number of channels of each of these maps.
        stages: names of the parameters on which each map depends, without those of maps with smaller strides.
        reached: names of all parameters on which each map depends.
        channels_last: whether maps are (B, H, W, C), as in Swin Transformers.
        divisor: sides of images must be multiples of this number, so that maps are as large as the anchors' grids.
    """

    indices: dict[int, int]
    channels: dict[int, int]
    stages: dict[int, frozenset[str]]
    reached: dict[int, frozenset[str]]
    channels_last: bool
    divisor: int


def timm_library() -> ModuleType:
    """Import timm, which is an optional dependency.

    Raises:
        InputError: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"model.backbone.type is timm, but the package timm cannot be imported ({first_line(error)}); "
            "install it with `pip install retinanet[timm]`, or set model.backbone.type=resnet"
        ) from None
    return timm


def create_network(name: str, *, in_channels: int, out_indices: Sequence[int] | None, tag: str | None) -> nn.Module:
    """Create a timm network that outputs feature maps: (B, in_channels, H, W) -> list of maps.

    Args:
        name: architecture, without the name of weights.
        out_indices: indices of the maps; None for timm's default.
        tag: name of the pretrained weights to download and load; None for random weights.
    """
    timm = timm_library()
    settings: dict[str, object] = {"features_only": True, "in_chans": in_channels}
    if out_indices is not None:
        settings["out_indices"] = tuple(out_indices)
    if tag is not None:
        settings |= {"pretrained": True, "pretrained_cfg": tag}
    if timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        try:
            return timm.create_model(name, strict_img_size=False, **settings)
        except TypeError:  # an unknown argument: this network accepts only one size, or has another option for it
            pass
    return timm.create_model(name, **settings)


@cache  # takes about a second, and is needed to check the config, then to build the network
def find_layout(name: str, in_channels: int) -> Layout:
    """Find the structure of a timm network by running it on the meta device.

    Raises:
        InputError: timm is missing or has no such network, or the network cannot be a backbone; the message says why.
    """
    timm = timm_library()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists all names"
        raise InputError(f"model.backbone.name: timm {timm.__version__} has no network {name!r}; {hint}")
    # Parameters are found in the autograd graph, which the caller may have turned off.
    with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
        try:
            network = create_network(name, in_channels=in_channels, out_indices=None, tag=None).eval()
        except Exception as error:  # networks without feature maps raise many different types
            raise _rejected(name, f"timm cannot extract feature maps from it ({first_line(error)})") from None
        info: Any = network.feature_info
        strides = info.reduction()
        if not {8, 16, 32} <= set(strides):
            raise _rejected(name, f"its feature maps have strides {', '.join(map(str, strides))}")
        # Of several maps with the same stride, the last one has passed through the most layers.
        positions = {stride: strides.index(stride) + strides.count(stride) - 1 for stride in sorted(set(strides))}
        positions = {stride: position for stride, position in positions.items() if stride <= MAX_STRIDE}
        channels = {stride: info.channels()[position] for stride, position in positions.items()}

        def run(height: int, width: int) -> list[Tensor]:
            features = network(torch.empty(1, in_channels, height, width))
            return [features[position] for position in positions.values()]

        divisor, channels_last = _find_divisor(name, run, channels)
        features = run(small_side(divisor), small_side(divisor))
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    reached = {
        stride: frozenset(names[key] for key in _parameters_of(feature) if key in names)
        for stride, feature in zip(channels, features, strict=True)
    }
    stages: dict[int, frozenset[str]] = {}
    for stride, found in reached.items():
        stages[stride] = found.difference(*stages.values())
    return Layout(
        indices={stride: info.out_indices[position] for stride, position in positions.items()},
        channels=channels,
        stages=stages,
        reached=reached,
        channels_last=channels_last,
        divisor=divisor,
    )


def small_side(divisor: int) -> int:
    """Smallest multiple of a backbone's divisor that is at least 64, the side of images that only test a network."""
    return -(-SMALL_SIDE // divisor) * divisor


def _rejected(name: str, reason: str) -> InputError:
    return InputError(
        f"model.backbone.name: {name} cannot be a backbone, because {reason}; expected a network with feature maps of "
        "strides 8, 16 and 32, such as convnext_tiny, efficientnet_b0 or mobilenetv4_conv_small"
    )


def _find_divisor(name: str, run: Callable[[int, int], list[Tensor]], channels: dict[int, int]) -> tuple[int, bool]:
    """Find the smallest divisor for which feature maps have the expected sizes, and whether channels come last."""
    reasons: dict[int, str] = {}
    for divisor in DIVISORS:
        layouts = set()
        for height, width in _test_sizes(divisor):
            try:
                features = run(height, width)
            except Exception as error:  # networks check sizes with assertions, or fail in any operation
                reasons[divisor] = f"with {height}x{width} pixels, it fails ({first_line(error)})"
                break
            layouts.add(_channels_last(features, channels, height, width))
            if None in layouts:
                sizes = ", ".join("x".join(map(str, feature.shape[-2:])) for feature in features)
                reasons[divisor] = f"with {height}x{width} pixels, the maps have sizes {sizes}"
                break
        else:
            return divisor, layouts == {True}
    raise _rejected(name, f"its feature maps match the grids of the anchors at no image size ({reasons[32]})")


def _test_sizes(divisor: int) -> Iterator[tuple[int, int]]:
    """Heights and widths that are odd and even multiples of a divisor. Odd ones show how a network rounds."""
    odd = 2 * (SMALL_SIDE // divisor // 2) + 1
    yield odd * divisor, (odd + 2) * divisor
    yield (odd + 1) * divisor, odd * divisor


def _channels_last(features: list[Tensor], channels: dict[int, int], height: int, width: int) -> bool | None:
    """Whether maps have the expected sizes with their channels last (True) or first (False); None: other sizes."""
    sizes = [(count, -(-height // stride), -(-width // stride)) for stride, count in channels.items()]
    shapes = [tuple(feature.shape[1:]) for feature in features]
    if shapes == sizes:
        return False
    return True if shapes == [(rows, columns, count) for count, rows, columns in sizes] else None


def _parameters_of(feature: Tensor) -> set[int]:
    """Ids of the parameters on which a tensor depends, from its autograd graph."""
    found, seen, left = set(), set(), [feature.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        left += [parent for parent, _ in node.next_functions]
    return found
