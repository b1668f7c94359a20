"""Pretrained weights for timm's networks: download by timm's name for them, or load from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retinanet.errors import InputError, first_line
from retinanet.model.pretrained import COUNTER, read_state_dict
from retinanet.model.stem import adapted_stem
from retinanet.model.timm_layout import create_network, timm_library

HALF_BYTE = 0.5  # tolerated difference of means and standard deviations, in 0..255


def load_timm_weights(network: nn.Module, name: str, weights: str, *, out_indices: Sequence[int]) -> None:
    """Load pretrained weights into a timm network, by name or from a file.

    Args:
        network: created by `create_network`; changed in place or not at all.
        name: timm's name for the architecture.
        weights: "imagenet" for timm's default weights, a name such as "dinov3_lvd1689m", or a path to a state dict with
            timm's names for the whole network, with or without the classifier.
        out_indices: as for `create_network`.

    If the network does not take RGB images, the first convolution of the weights is adapted; see `adapt_stem`.

    Raises:
        InputError: the name is unknown, the download failed, or the file contains weights of a different network.
    """
    tags = _tags(name)
    tag = _default_tag(name) if weights == "imagenet" else weights
    if tag in tags:
        state = _download(name, tag, tags[tag], out_indices)
        network.load_state_dict(state | adapted_stem(state, network.state_dict()))
        return
    known = ", ".join(["imagenet", *tags]) if tags else "none: timm has no weights for it"
    if weights == "imagenet" or not Path(weights).exists():
        raise InputError(
            f"model.backbone.weights: {weights} is neither a file nor the name of weights for {name}; "
            f"timm's weights for it: {known}. For random weights, set weights to none and frozen_stages to 0"
        )
    network.load_state_dict(_from_file(network, name, Path(weights)), strict=False)


def note_on_statistics(name: str, weights: str, mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Describe how the statistics of images in the config differ from those that the weights were trained with.

    Args:
        mean, std: `model.mean` and `model.std`, in 0..255.

    Returns: the difference, with the lines to set; None if they agree, or if there are not three channels.
    """
    tag = weights if weights in _tags(name) else _default_tag(name)
    cfg = _tags(name).get(tag) or timm_library().get_pretrained_cfg(name)
    if cfg is None or len(mean) != len(cfg.mean):
        return None
    their_mean, their_std = ([round(255 * value, 3) for value in values] for values in (cfg.mean, cfg.std))
    differences = [a - b for a, b in zip([*mean, *std], [*their_mean, *their_std], strict=True)]
    if all(abs(difference) < HALF_BYTE for difference in differences):
        return None
    return (
        f"timm's weights for {name} were trained on images normalised with mean {their_mean} and std "
        f"{their_std}, but model.mean is {list(mean)} and model.std is {list(std)}; unless this is intended, set\n"
        f"  model.mean='{their_mean}' model.std='{their_std}'"
    )


def _tags(name: str) -> dict[str, Any]:
    """Map the names of the weights that timm can download for an architecture to their descriptions."""
    found = timm_library().models.get_arch_pretrained_cfgs(name)
    return {key.partition(".")[2]: cfg for key, cfg in found.items() if cfg.has_weights}


def _default_tag(name: str) -> str:
    cfg = timm_library().get_pretrained_cfg(name)
    return "" if cfg is None else cfg.tag or ""


def _download(name: str, tag: str, cfg: Any, out_indices: Sequence[int]) -> dict[str, Tensor]:
    try:
        loaded = create_network(name, in_channels=3, out_indices=out_indices, tag=tag)
    except Exception as error:  # network, disk, hash mismatch, damaged cached file: each raises a different type
        if cfg.hf_hub_id:
            source, target = f"https://huggingface.co/{cfg.hf_hub_id}", Path(_hub_cache())
        else:
            source, target = cfg.url, Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"model.backbone.weights: could not load the weights {tag} of {name} from {source} by way of {target}: "
            f"{type(error).__name__}: {first_line(error)}; check the connection, download the file yourself and set "
            "model.backbone.weights=PATH, or train from scratch with model.backbone.weights=none "
            "model.backbone.frozen_stages=0 model.backbone.norm=batch"
        ) from None
    return loaded.state_dict()


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE  # a dependency of timm

    return HF_HUB_CACHE


def _from_file(network: nn.Module, name: str, path: Path) -> dict[str, Tensor]:
    """Read a state dict of the whole network, and rename its tensors for the network that extracts feature maps."""
    timm = timm_library()
    expected = network.state_dict()
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
    state, unknown = {}, []
    for key, value in read_state_dict(path).items():
        # timm moves the layers that it needs: stages.0.norm becomes stages_0.norm, or stays below a wrapper.
        names = (key, key.replace(".", "_", 1), f"body.{key}", f"model.{key}")
        ours = next((candidate for candidate in names if candidate in expected), None)
        if ours is not None:
            state[ours] = value
        elif key not in whole:
            unknown.append(key)
    state |= adapted_stem(state, expected)
    missing = [key for key in expected if key not in state and not key.endswith(COUNTER)]
    misshapen = [key for key, value in state.items() if value.shape != expected[key].shape]
    if missing or unknown or misshapen:
        raise InputError(
            f"model.backbone.weights: {path} does not contain timm's weights of {name}: {len(missing)} missing "
            f"{missing[:3]}, {len(unknown)} unknown {unknown[:3]}, {len(misshapen)} with a different shape "
            f"{misshapen[:3]}; set model.backbone.name to the architecture of these weights"
        )
    return state
