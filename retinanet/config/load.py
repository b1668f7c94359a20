"""Load YAML files and `a.b=c` overrides into one frozen `Config`."""

import difflib
import json
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retinanet.config.explain import explain
from retinanet.config.keys import takes_text
from retinanet.config.paths import escape_paths, expand_paths
from retinanet.config.schema import Config
from retinanet.config.train import TrainConfig
from retinanet.config.yaml_loader import dump_yaml, parse_yaml, read_yaml
from retinanet.errors import InputError

# Values that are parsed as YAML even for keys that take text.
_IS_YAML = re.compile(r"|~|null|Null|NULL|'.*'|\".*\"|\[.*\]|\{.*\}", re.DOTALL)
RUN_LENGTHS = {"epochs", "steps"}  # keys of `train`; a config sets exactly one of them


def load_config(path: str | Path, overrides: str | Sequence[str] = ()) -> Config:
    """Load a config file, its `base:` if it has one, and overrides such as `train.epochs=3`.

    Args:
        path: a config file, or the name of a bundled config, with or without `.yaml`.
        overrides: one override or a list, applied last and in order; see `parse_override`. `train.epochs` replaces
            `train.steps` and vice versa, as in a file with a `base:`.

    `~` and environment variables in paths are expanded.

    Raises:
        InputError: the file or an override is invalid; the message names the file, the key and what was expected.
    """
    file = find_config(path)
    source, values = str(file), expand_paths(read_yaml(file), str(file))
    if "base" in values:
        base_name = values.pop("base")
        if not isinstance(base_name, str):
            raise InputError(f"{file}: base is {base_name!r}, expected the name of one config file")
        sibling = file.parent / base_name
        try:
            base_file = sibling if sibling.is_file() else find_config(base_name)
        except InputError as error:
            raise InputError(f"{file}: base: {error}") from None
        base = expand_paths(read_yaml(base_file), str(base_file))
        if "base" in base:
            raise InputError(f"{base_file}: is the base of {file} and has a base itself; only one level is allowed")
        values = _merge_config(base, values)
        source = f"{file} (base {base_file})"
    # Start from the defaults: a key in a section can then be set without repeating the `type` of the section.
    values = _with_overrides(merge(_defaults(), values), overrides)
    return config_from_values(values, source=source + (" with overrides" if overrides else ""))


def _defaults() -> dict[str, Any]:
    values = _plain(Config(train=TrainConfig(steps=1)))
    del values["train"]["steps"]  # there is no default run length
    return values


def _plain(config: Config) -> dict[str, Any]:
    """Values of a config, for overriding, without the anchor settings that are derived from `model.levels`."""
    following = config.model.anchors.following_levels
    return json.loads(config.model_dump_json(exclude={"model": {"anchors": following}}))


def with_overrides(config: Config, overrides: str | Sequence[str], source: str) -> Config:
    """Apply overrides to a copy of a config and validate the result. `source` names the config in errors.

    Raises:
        InputError: an override, or the resulting config, is invalid.
    """
    return config_from_values(_with_overrides(_plain(config), overrides), source=source)


def is_overridden(overrides: str | Sequence[str], key: str) -> bool:
    """Whether one of the overrides sets a key, by itself or with the section that contains it."""
    for override in [overrides] if isinstance(overrides, str) else overrides:
        value: Any = parse_override(override)
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return True
    return False


def _with_overrides(values: dict[str, Any], overrides: str | Sequence[str]) -> dict[str, Any]:
    overrides = [overrides] if isinstance(overrides, str) else overrides
    if not isinstance(overrides, Sequence) or not all(isinstance(override, str) for override in overrides):
        raise InputError(f"overrides: found {overrides!r}, expected text such as 'train.epochs=3', or a list of these")
    for override in overrides:
        values = _merge_config(values, expand_paths(parse_override(override), f"override {_shown(override)}"))
    return values


def _merge_config(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Merge configs; a run length in `values` replaces that of `base`, whether in epochs or in steps."""
    train = values.get("train")
    if isinstance(train, dict):
        given = {name for name in RUN_LENGTHS if train.get(name) is not None}
        if len(given) == 1:
            (other,) = RUN_LENGTHS - given
            values = values | {"train": train | {other: None}}
    return merge(base, values)


def config_from_values(values: dict[str, Any], source: str) -> Config:
    """Validate plain values, as read from YAML or JSON, against the schema. `source` names them in errors.

    Raises:
        InputError: the schema rejects the values; the message has one line per problem.
    """
    try:
        return Config.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = explain(error, values)
        raise InputError("\n  ".join([f"{source}: {len(lines)} problem(s) in the config", *lines])) from None


def config_to_yaml(config: Config) -> str:
    """Convert a config to YAML, including defaults; loading the YAML gives the same config."""
    return dump_yaml(escape_paths(json.loads(config.model_dump_json())))


def find_config(path: str | Path) -> Path:
    """Find a config file by path or, if there is no such file, by the name of a bundled config.

    `configs/NAME.yaml` also names a bundled config, in any working directory; `elsewhere/NAME.yaml` is only a path.

    Raises:
        InputError: there is no such file; the message suggests the closest bundled config.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"found {type(path).__name__}, expected the path or the name of a config")
    if os.path.isfile(path):  # Path.is_file raises an error if the name is too long
        return Path(path)
    entries = [Path(str(entry)) for entry in files("retinanet.configs").iterdir()]
    shipped = {entry.stem: entry for entry in entries if entry.suffix == ".yaml"}
    name = Path(path).name.removesuffix(".yaml")
    if name in shipped and str(Path(path).parent) in (".", "configs"):
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, 1)
    hint = f"did you mean {near[0]}?" if near else f"bundled configs: {', '.join(sorted(shipped))}"
    problem = "is a folder, expected a config file" if Path(path).is_dir() else "neither a file nor a bundled config"
    raise InputError(f"{path or repr('')}: {problem}; {hint}")


def merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Merge `values` into `base`, recursing into nested mappings.

    A mapping with a different `type` replaces the old one, because it selects a different variant.
    """
    merged = dict(base)
    for key, value in values.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, list) and len(old) == 1:
            old = old[0]  # a single data source written as a list
        if isinstance(value, dict) and isinstance(old, str) and key in ("train", "val"):
            old = {"annotations": old}  # a data source written as its path
        if isinstance(old, dict) and isinstance(value, dict) and value.get("type", old.get("type")) == old.get("type"):
            value = merge(old, value)
        merged[key] = value
    return merged


def parse_override(override: str) -> dict[str, Any]:
    """Parse an override: `train.epochs=3` -> {"train": {"epochs": 3}}.

    The value is parsed as YAML. For a key that takes text, such as a path, it is taken literally, unless it is empty,
    null, in quotes, or in brackets or braces: in YAML, the rest of `/data/set #1` would be a comment.

    Raises:
        InputError: the override does not have the form KEY.KEY=VALUE, or its value is not valid YAML.
    """
    name, sign, text = override.partition("=")
    keys = name.split(".")
    if not sign or not all(keys):
        raise InputError(f"override {override!r}: expected KEY.KEY=VALUE, for example train.epochs=3")
    literal = takes_text(name) and not _IS_YAML.fullmatch(text.strip())
    value: Any = text.strip() if literal else parse_yaml(text, f"override {_shown(override)}: the value")
    for key in reversed(keys):
        value = {key: value}
    return value


def _shown(override: str) -> str:
    return repr(override if len(override) < 80 else override[:77] + "...")
