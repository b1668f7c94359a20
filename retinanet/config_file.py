"""YAML and `a.b=c` overrides -> one frozen `Config`, with errors that a person can act on."""

import difflib
import json
import re
import typing
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from retinanet.config import Config
from retinanet.errors import InputError

MAX_BYTES = 1_000_000  # of a configuration file


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, 12:30 is text, and a key stands once."""


_NUMBER = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a configuration file, its `base:` where it names one, and overrides such as `train.epochs=3`.

    Args:
        path: a file, or the name of a configuration that the package ships, with or without `.yaml`.
        overrides: applied last, in order; the value is read as YAML.

    Raises:
        InputError: for any mistake in the file or the overrides; it names the file, the key and what was expected.
    """
    file = find_config(path)
    values = _read(file)
    if "base" in values:
        base_name = values.pop("base")
        if not isinstance(base_name, str):
            raise InputError(f"{file}: base is {base_name!r}, expected the name of one configuration file")
        beside = file.parent / base_name
        base_file = beside if beside.is_file() else find_config(base_name)
        base = _read(base_file)
        if "base" in base:
            raise InputError(f"{base_file}: is the base of {file} and names a base itself; only one step is allowed")
        values = merge(base, values)
    for override in overrides:
        values = merge(values, parse_override(override))
    return config_from_values(values, source=str(file) + (" with overrides" if overrides else ""))


def with_overrides(config: Config, overrides: typing.Sequence[str], source: str) -> Config:
    """A changed copy, checked as a whole. `source` names the config in errors."""
    values = json.loads(config.model_dump_json())
    for override in overrides:
        values = merge(values, parse_override(override))
    return config_from_values(values, source=source)


def config_from_values(values: dict[str, Any], source: str) -> Config:
    """Plain values, as YAML or JSON gives them, checked by the schema."""
    try:
        return Config.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors(include_url=False)]
        raise InputError("\n  ".join([f"{source}: {len(lines)} problem(s) in the configuration", *lines])) from None


def config_to_yaml(config: Config) -> str:
    """Every value, defaults included; reads back as the same config."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, default_flow_style=None, width=120)


def find_config(path: str | Path) -> Path:
    """A file by its path, else by its name among the configurations that the package ships."""
    if Path(path).is_file():
        return Path(path)
    shipped = {file.name.removesuffix(".yaml"): file for file in files("retinanet.configs").iterdir()}
    shipped = {name: Path(str(file)) for name, file in shipped.items() if file.name.endswith(".yaml")}
    name = Path(path).name.removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, 1)
    hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(sorted(shipped))}"
    raise InputError(f"{path}: no such configuration file, and none of that name in the package; {hint}")


def merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values` over `base`, mapping by mapping. Where `type` differs, the mapping is replaced: it is another part."""
    merged = dict(base)
    for key, value in values.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, list) and len(old) == 1 and isinstance(old[0], dict):
            old = old[0]  # one data source, written as a list
        same_part = (
            isinstance(old, dict) and isinstance(value, dict) and value.get("type", old.get("type")) == old.get("type")
        )
        merged[key] = merge(old, value) if same_part else value
    return merged


def parse_override(override: str) -> dict[str, Any]:
    """`train.epochs=3` -> {"train": {"epochs": 3}}."""
    name, sign, text = override.partition("=")
    keys = name.split(".")
    if not sign or not all(keys):
        raise InputError(f"override {override!r}: expected KEY.KEY=VALUE, for example train.epochs=3")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not YAML: {_yaml_problem(error)}") from None
    for key in reversed(keys):
        value = {key: value}
    return value


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file}: {file.stat().st_size} bytes, a configuration file has at most {MAX_BYTES}")
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not a text file in UTF-8: {error}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: is not a YAML file: {_yaml_problem(error)}") from None
    except RecursionError:
        raise InputError(f"{file}: is nested too deeply for a configuration file") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{file}: holds a {type(values).__name__}, expected keys and values such as train: ...")
    return values


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or str(error).splitlines()[0])


def _explain(item: Any) -> str:
    """One line on one validation error: dotted key, what was found, what was expected, the nearest known key."""
    location, shown = item["loc"], repr(item["input"])
    owners, key = _walk(location)
    if item["type"] == "extra_forbidden":
        known = sorted({field for owner in owners for field in owner.model_fields})
        near = difflib.get_close_matches(str(location[-1]), known, 1, 0.6)
        return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}")
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    if item["type"] == "missing":
        return f"{key}: missing, and it has no default"
    if item["type"].startswith("union_tag"):
        return f"{key}: type is {shown}, expected one of {item['ctx'].get('expected_tags', 'the known types')}"
    if item["type"] == "value_error":
        return f"{key or 'the whole'}: {item['ctx']['error']}"
    message = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{key}: found {shown} ({_yaml_type(item['input'])}), expected {message}"


def _yaml_type(value: Any) -> str:
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", dict: "mapping"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _walk(location: tuple[str | int, ...]) -> tuple[list[type[BaseModel]], str]:
    """The models that own the last key of a location, and the key as a user writes it.

    A location also holds the tags of unions, which stand in no file: they are skipped.
    """
    owners: list[type[BaseModel]] = [Config]
    key: list[str] = []
    for position, part in enumerate(location):
        below = [
            m for owner in owners if part in owner.model_fields for m in _models_in(owner.model_fields[part].annotation)
        ]
        tagged = [owner for owner in owners if isinstance(part, str) and _has_tag(owner, part)]
        in_union = isinstance(part, str) and not any(part in owner.model_fields for owner in owners)
        if (in_union and position < len(location) - 1) or part in ("str", "function-before[_as_tuple()]"):
            owners = tagged or owners
            continue
        key.append(str(part))
        if position < len(location) - 1:
            owners = below or owners
    return owners, ".".join(key)


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    field = model.model_fields.get("type")
    if field is None or typing.get_origin(field.annotation) is not Literal:
        return model.__name__ == tag
    return tag in typing.get_args(field.annotation)
