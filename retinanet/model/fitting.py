"""Check that the settings of a model fit the detector that its initial weights come from."""

from typing import Any

import yaml

from retinanet.config import ModelConfig
from retinanet.errors import InputError

# Keys of `model` that change the meaning or the shape of weights.
KEYS = (
    "backbone.type",
    "backbone.name",
    "backbone.norm_eps",
    "backbone.stride_in_1x1",
    "channels",
    "p6_from",
    "head_convs",
    "head_norm",
    "head_conv_bias",
)
# Weights for pixels divided by 58 do not work for undivided pixels; smaller changes are those of another dataset.
MAX_STD_RATIO = 2.0


def check_fits(cfg: ModelConfig, trained: ModelConfig, source: str) -> None:
    """Check that the weights of a trained detector keep their meaning in a model with another config.

    Args:
        cfg: config of the model to load into.
        trained: config of the trained detector.
        source: name of the weights for messages.

    Raises:
        InputError: they do not; the message lists the keys to set.
    """
    lines = [
        f"  model.{key}={_text(expected)}  (now {_text(found)})" for key, expected, found in differences(cfg, trained)
    ]
    if lines:
        raise InputError(
            f"{source}: the weights need other settings of the model; set these in the config or on the command line, "
            "or remove train.init_from:\n" + "\n".join(lines)
        )


def differences(cfg: ModelConfig, trained: ModelConfig) -> list[tuple[str, Any, Any]]:
    """Keys that must change, with the values of the trained detector and of the config."""
    values = [(key, _value(trained, key), _value(cfg, key)) for key in KEYS]
    changed = [(key, expected, found) for key, expected, found in values if expected != found and expected is not None]
    if {trained.head_norm, cfg.head_norm} == {"batch_per_level", "sync_per_level"}:  # the same weights
        changed = [change for change in changed if change[0] != "head_norm"]
    norms = trained.backbone.norm, cfg.backbone.norm
    if (norms[0] == "group") != (norms[1] == "group"):  # all others have the statistics of batch norm
        changed.append(("backbone.norm", *norms))
    if trained.anchors.rounding == "torchvision" != cfg.anchors.rounding:
        changed.append(("anchors.rounding", trained.anchors.rounding, cfg.anchors.rounding))
    same_channels = trained.in_channels == cfg.in_channels
    if same_channels and any(
        max(old / new, new / old) > MAX_STD_RATIO for old, new in zip(trained.std, cfg.std, strict=True)
    ):
        changed += [("mean", list(trained.mean), list(cfg.mean))] * (trained.mean != cfg.mean)
        changed.append(("std", list(trained.std), list(cfg.std)))
    return changed


def _value(cfg: ModelConfig, key: str) -> Any:
    """Value of a key, None for one that this type of backbone does not have."""
    value: Any = cfg
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def _text(value: Any) -> str:
    """A value as it is written in an override."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
