"""Create a config for a user's dataset: to train on it, from a bundled config, or only to read it."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from retinanet.config import Config, DataConfig, DataSource, TrainConfig
from retinanet.config.data import Format
from retinanet.config.load import load_config, with_overrides
from retinanet.errors import InputError
from retinanet.formats.findings import Finding
from retinanet.runtime.console import escape_controls

FORMAT_KEY = "data.train.format="
VAL_FRACTION = 0.1  # fraction of the training images held out if there is no validation split


def say(text: str) -> None:
    """Print to stderr, because stdout may contain a config. Under torchrun, only the main process prints."""
    if os.environ.get("RANK", "0") == "0":
        print(escape_controls(text), file=sys.stderr, flush=True)


def data_overrides(path: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that select the data in a folder or file, and print what was found.

    Args:
        overrides: the user's overrides; `data.train.format` selects the format if several are possible.

    Raises:
        InputError: the format is unknown or ambiguous, or there is no training split.
    """
    from retinanet.formats.detect import own_data

    found = own_data(path, _given_format(overrides))
    say(f"{path}: {found.description}")
    train = f"data.train={json.dumps(found.train.model_dump())}"
    if found.val is not None:
        return [train, f"data.val={json.dumps(found.val.model_dump())}", "data.val_fraction=0"]
    say(f"no validation split: {VAL_FRACTION:.0%} of the training images are held out (data.val_fraction)")
    return [train, "data.val=[]", f"data.val_fraction={VAL_FRACTION}"]


def _given_format(overrides: Sequence[str]) -> Format:
    """The value of the override `data.train.format`."""
    values = [override.partition("=")[2] for override in overrides if override.startswith(FORMAT_KEY)]
    if not values:
        return "auto"
    if values[-1] not in get_args(Format):
        raise InputError(f"{FORMAT_KEY}{values[-1]}: expected one of {', '.join(get_args(Format))}")
    return cast(Format, values[-1])


def own_config(path: str, config: str | None, overrides: Sequence[str]) -> Config:
    """Load the config for a dataset, and print how it was adjusted.

    Args:
        config: a config to use unchanged. If None, `own_gpu` or `own_cpu` is used with the settings recommended for
            the dataset. Overrides are applied last.

    Raises:
        InputError: the dataset or an override cannot be used.
    """
    sources = data_overrides(path, overrides)
    if config is not None:
        return load_config(config, [*sources, *overrides])
    from retinanet.data.build import load_train_data
    from retinanet.doctor.recommend import describe_machine, recommend
    from retinanet.formats.findings import report
    from retinanet.runtime.device import resolve_device

    name = _config_for_this_machine()
    cfg = load_config(name, [*sources, *overrides])
    findings: list[Finding] = []
    data = load_train_data(cfg, findings)
    report(finding for finding in findings if finding.severity == "error")  # training logs the others
    say("examining image sizes, objects and anchors")
    recommended = recommend(data, cfg, describe_machine(resolve_device(cfg.device))).recommendations
    say(f"config: {name}, adjusted to the dataset; --print-config shows all keys")
    for item in recommended:
        say("\n".join([f"  {item.topic}: {item.sentence}", *(f"    {line}" for line in item.lines)]))
    lines = [line for item in recommended for line in item.lines]
    return load_config(name, [*sources, *lines, *overrides])


def own_or_named_config(data: str, overrides: Sequence[str]) -> Config:
    """Load the config from a file or by its bundled name, or create the config for a dataset folder or annotation file.

    Raises:
        InputError: `data` is neither a config nor a dataset.
    """
    if not is_dataset(data):
        return load_config(data, overrides)
    return load_config(_config_for_this_machine(), [*data_overrides(data, overrides), *overrides])


def is_dataset(path: str) -> bool:
    """Whether a path refers to a dataset folder or annotation file rather than to a config.

    A YAML file is a config unless it lists class names at its top level, like the `data.yaml` of a YOLO dataset.
    """
    if os.path.isdir(path):
        return True
    if not path.lower().endswith((".yaml", ".yml")):
        return os.path.exists(path)  # the name of a bundled config has no suffix
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # `load_config` reports the problem
        return False
    return any(line.startswith("names:") for line in lines)


def _config_for_this_machine() -> str:
    from retinanet.runtime.device import resolve_device

    return "own_gpu" if resolve_device("auto").type == "cuda" else "own_cpu"


def config_of(source: str, overrides: list[str]) -> Config:
    """The default config with the source as `data.train` (for the first split) and `data.val` (for the other splits).

    Raises:
        InputError: an override is invalid, or replaces the source.
    """
    place = DataSource(annotations=source)
    data = DataConfig(train=(place,), val=(place,))
    default = with_overrides(Config(train=TrainConfig(steps=1), data=data), [], source)
    cfg = with_overrides(default, overrides, "overrides")
    for key, sources in (("train", cfg.data.train), ("val", cfg.data.val)):
        if len(sources) != 1 or sources[0].annotations != default.data.train[0].annotations:
            raise InputError(
                f"overrides: data.{key} would replace {source}; set only its other keys, such as data.{key}.images"
            )
    return cfg
