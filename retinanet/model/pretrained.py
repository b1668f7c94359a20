"""Pretrained ImageNet weights for the backbone, by name or from a file, and downloads of torchvision's weights."""

import re
import sys
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from retinanet.checkpoint.file import file_checksum
from retinanet.errors import InputError
from retinanet.model.stem import adapt_stem
from retinanet.runtime.console import is_terminal

HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,})\.pth$")  # as torch.hub writes it
COUNTER = "num_batches_tracked"  # buffer of batch norm that frozen batch norm and older files do not have
STEM = "conv1.weight"  # torchvision's name for the first convolution of a residual network


def load_torchvision_weights(backbone: nn.Module, name: str, weights: str) -> None:
    """Load torchvision's ImageNet weights into a backbone, by name or from a file.

    If the first convolution of the backbone does not take RGB images, that of the weights is adapted to its channels.

    Args:
        backbone: backbone to load into, changed in place or not at all; its state dict must use torchvision's names.
        name: torchvision's name for the architecture.
        weights: "imagenet" for torchvision's newest weights, a torchvision name such as "IMAGENET1K_V1", or a path.

    Raises:
        InputError: the name is unknown, the download failed, or the file contains weights of a different network.
    """
    if weights == "imagenet" or weights.startswith("IMAGENET"):
        state, source = _download(name, weights)
    else:
        state, source = read_state_dict(Path(weights)), weights
    # The detector has no ImageNet classifier, and some norms, such as frozen batch norm, have no batch counter.
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    expected = backbone.state_dict()
    if STEM in state and state[STEM].ndim == 4 and state[STEM].shape[1] == 3:
        state[STEM] = adapt_stem(state[STEM], expected[STEM].shape[1])
    state = {key: value for key, value in state.items() if key in expected or not key.endswith(COUNTER)}
    missing = [key for key in expected if key not in state and not key.endswith(COUNTER)]
    unknown = [key for key in state if key not in expected]
    misshapen = [key for key in state if key in expected and state[key].shape != expected[key].shape]
    if missing or unknown or misshapen:
        raise InputError(
            f"{source}: not the weights of {name}: {len(missing)} missing {missing[:3]}, {len(unknown)} unknown "
            f"{unknown[:3]}, {len(misshapen)} with a different shape {misshapen[:3]}; set model.backbone.name to the "
            "architecture of these weights, model.backbone.norm to frozen, batch or sync for ImageNet weights, or "
            "model.backbone.weights to none"
        )
    backbone.load_state_dict(state, strict=False)


def _download(name: str, weights: str) -> tuple[dict[str, Tensor], str]:
    known = torchvision.models.get_model_weights(name)
    member = "DEFAULT" if weights == "imagenet" else weights
    if member not in known.__members__:
        names = ", ".join(["imagenet", *(key for key in known.__members__ if key != "DEFAULT")])
        raise InputError(f"model.backbone.weights: {name} has no weights named {weights}; expected one of {names}")
    what, advice = (
        f"model.backbone.weights: could not download {weights} for {name}",
        "model.backbone.weights=PATH, or train from scratch with model.backbone.weights=none "
        "model.backbone.frozen_stages=0 model.backbone.norm=batch",
    )
    return download_torchvision_weights(known[member], what=what, advice=advice), known[member].url


def download_torchvision_weights(weights: WeightsEnum, *, what: str, advice: str) -> dict[str, Tensor]:
    """Return the state dict of torchvision's weights, from torchvision's cache if available.

    The hash in the file name is checked after a download, and for a file that was in the cache.

    Args:
        what: start of the error message: the key and what could not be downloaded.
        advice: settings that avoid the download.

    Raises:
        InputError: the download failed, or the file in the cache is damaged.
    """
    url = weights.url
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        _check_hash(target)
        return dict(weights.get_state_dict(progress=is_terminal(sys.stderr), check_hash=True, weights_only=True))
    except Exception as error:  # network, disk, hash mismatch, damaged cached file: each raises a different type
        raise InputError(
            f"{what} from {url} to {target}, or the file there is damaged: {_reason(error)}; copy the file there "
            f"yourself, set {advice}"
        ) from None


def _check_hash(file: Path) -> None:
    """Check a file in the cache, if it exists, against the start of its SHA-256 checksum in its name.

    Raises:
        ValueError: the checksum differs.
    """
    expected = HASH_IN_NAME.search(file.name)
    if expected and file.is_file() and not file_checksum(file).startswith(expected[1]):
        raise ValueError(f"invalid hash value: expected {expected[1]}")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file written by `torch.save`, or in a safetensors file if its name ends in that.

    Raises:
        InputError: the file is missing, damaged, or contains anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"model.backbone.weights: {path} does not exist; set it to an existing file, to imagenet, or to none "
            "to train from scratch"
        ) from None
    except Exception as error:  # torch.load raises a different type for each kind of damage
        raise InputError(
            f"model.backbone.weights: {path} is not a weights file: {_reason(error)}; set a file written by "
            "torch.save(module.state_dict(), path)"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"model.backbone.weights: {path} is not a plain state dict (names to tensors)")
    return state


def _reason(error: Exception) -> str:
    """First sentence of an error. The rest of a torch message is advice that does not apply, some of it unsafe."""
    return f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]
