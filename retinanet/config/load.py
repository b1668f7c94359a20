"""YAML and `a.b=c` overrides -> one frozen `Config`, with errors that a person can act on."""

import difflib
import json
import os
import re
import typing
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from retinanet.config.base import models_in
from retinanet.config.data import MergedClass
from retinanet.config.schema import Config
from retinanet.config.train import TrainConfig
from retinanet.errors import InputError

MAX_BYTES = 1_000_000  # of a configuration file


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, 12:30 is text, a key stands once, and every value is written out."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        # Aliases of aliases grow without bound when they are expanded: a few lines would fill the memory.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"the alias *{event.anchor} is not supported, write the value out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError) as error:  # thousands of digits, or !!int and its like before other text
            problem = f"cannot be read as a value ({str(error).partition(';')[0]})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_NUMBER = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("float", "int", "timestamp", "merge", "value")}
# What JSON has. Dates, sets and bytes are values of no key.
_KNOWN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
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


def _refuse_tag(loader: _Loader, node: yaml.Node) -> None:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    problem = f"the tag {tag} is not supported, give a plain value"
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.yaml_constructors = {
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in _KNOWN_TAGS
}
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor(None, _refuse_tag)


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader above would take for something else, as 1e-3, or that other loaders would."""


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *_Loader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a configuration file, its `base:` where it names one, and overrides such as `train.epochs=3`.

    Args:
        path: a file, or the name of a configuration that the package ships, with or without `.yaml`.
        overrides: applied last, in order; the value is read as YAML.

    Raises:
        InputError: for any mistake in the file or the overrides; it names the file, the key and what was expected.
    """
    file = find_config(path)
    source, values = str(file), read_yaml(file)
    if "base" in values:
        base_name = values.pop("base")
        if not isinstance(base_name, str):
            raise InputError(f"{file}: base is {base_name!r}, expected the name of one configuration file")
        beside = file.parent / base_name
        try:
            base_file = beside if beside.is_file() else find_config(base_name)
        except InputError as error:
            raise InputError(f"{file}: base: {error}") from None
        base = read_yaml(base_file)
        if "base" in base:
            raise InputError(f"{base_file}: is the base of {file} and names a base itself; only one step is allowed")
        values = merge(base, values)
        source = f"{file} (base {base_file})"
    # Over the defaults, so that a key of a part can be given without naming the part's type.
    values = merge(_defaults(), values)
    for override in overrides:
        values = merge(values, parse_override(override))
    return config_from_values(values, source=source + (" with overrides" if overrides else ""))


def _defaults() -> dict[str, Any]:
    values = json.loads(Config(train=TrainConfig(steps=1)).model_dump_json())
    del values["train"]["steps"]  # the length of a run has no default
    return values


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
        lines = [_explain(item, values) for item in error.errors(include_url=False) if _is_telling(item)]
        raise InputError("\n  ".join([f"{source}: {len(lines)} problem(s) in the configuration", *lines])) from None


def config_to_yaml(config: Config) -> str:
    """Every value, defaults included; reads back as the same config."""
    values = json.loads(config.model_dump_json())
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)


def find_config(path: str | Path) -> Path:
    """A file by its path, else by its name among the configurations that the package ships.

    `configs/NAME.yaml` is such a name in any folder; `elsewhere/NAME.yaml` is only the file that lies there.
    """
    if os.path.isfile(path):  # unlike the method of Path, without an error for names too long for a file
        return Path(path)
    shipped = {file.name.removesuffix(".yaml"): file for file in files("retinanet.configs").iterdir()}
    shipped = {name: Path(str(file)) for name, file in shipped.items() if file.name.endswith(".yaml")}
    name = Path(path).name.removesuffix(".yaml")
    if name in shipped and str(Path(path).parent) in (".", "configs"):
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, 1)
    hint = f"did you mean {near[0]}?" if near else f"the package has {', '.join(sorted(shipped))}"
    what = "is a folder, expected a configuration file" if Path(path).is_dir() else "no such configuration file"
    raise InputError(f"{path or repr('')}: {what}, by path or by name in the package; {hint}")


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
    shown = repr(override if len(override) < 80 else override[:77] + "...")
    value = _parse(text, f"override {shown}: the value")
    for key in reversed(keys):
        value = {key: value}
    return value


def read_yaml(file: Path) -> dict[str, Any]:
    """The keys and values of one file; none for an empty one.

    Raises:
        InputError: it cannot be read, or is no YAML of keys and values.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file}: {file.stat().st_size} bytes, a configuration file has at most {MAX_BYTES}")
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not a text file in UTF-8: {error}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    values = _parse(text, f"{file}:")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{file}: {_yaml_type(values)} at the top, expected keys and values such as train: ...")
    return values


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{what} cannot be read as YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise InputError(f"{what} is nested too deeply for a configuration") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or str(error).splitlines()[0])


def _is_telling(item: Any) -> bool:
    """Pydantic complains of every form that a key can take, and of a list from which it took the wrong items out."""
    kind, form, found = item["type"], item["loc"][-1:], item["input"]
    if form == ("str",) and kind == "string_type":
        return not isinstance(found, dict)
    if form == (MergedClass.__name__,) and kind in ("dict_type", "model_type", "model_attributes_type"):
        return False
    return kind != "too_short" or len(found) < item["ctx"]["min_length"]


def _explain(item: Any, values: dict[str, Any]) -> str:
    """One line on one validation error: dotted key, what was found, what was expected, the nearest known key."""
    location, kind, found = item["loc"], item["type"], item["input"]
    is_key = kind in ("extra_forbidden", "missing")  # the location ends in a key, never in the tag of a union
    owners, key = _walk(location, values, is_key=is_key)
    if kind == "extra_forbidden":
        known = sorted({field for owner in owners for field in owner.model_fields})
        near = difflib.get_close_matches(str(location[-1]), known, 1, 0.6)
        return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}")
    if kind == "missing":
        return f"{key}: missing, and it has no default"
    if kind.startswith("union_tag"):
        tags = [tag for owner in owners for tag in _tags(owner)]
        tag = found.get("type") if isinstance(found, dict) else None
        near = difflib.get_close_matches(tag, tags, 1, 0.6) if isinstance(tag, str) else []
        shown = "missing" if tag is None else _shown(tag)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return (
            f"{key}.type: {'' if tag is None else 'found '}{shown}, expected one of {', '.join(map(repr, tags))}{hint}"
        )
    if kind == "value_error":
        return f"{key or 'the whole'}: {item['ctx']['error']}"
    if kind == "json_invalid":
        return "holds text that is not Unicode, expected plain text"
    expected = _EXPECTED.get(kind) or item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind in ("too_short", "too_long"):
        side, limit = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        expected = f"at {side} {item['ctx'][limit]} of them"
    if kind == "string_type" and not isinstance(found, list | dict):
        expected += ", in quotes"
    found_kind = "" if found is None or isinstance(found, bool) else f" ({_yaml_type(found)})"
    return f"{key}: found {_shown(found)}{found_kind}, expected {expected}"


_EXPECTED = {  # in the words of YAML, where pydantic has those of JSON
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 80 else text[:77] + "..."


def _yaml_type(value: Any) -> str:
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", dict: "mapping"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)


def _walk(
    location: tuple[str | int, ...], values: dict[str, Any], *, is_key: bool
) -> tuple[list[type[BaseModel]], str]:
    """The models that own the last key of a location, or stand at it, and the key as a user writes it.

    A location also holds the tags of unions, and position 0 of a source that is written without a list; they stand in
    no file and are skipped.
    """
    owners: list[type[BaseModel]] = [Config]
    key: list[str] = []
    here: Any = values
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(part, int):
            if isinstance(here, list):
                key.append(str(part))
                here = here[part] if part < len(here) else None
            continue
        fields = [owner.model_fields[part] for owner in owners if part in owner.model_fields]
        if not fields and not (is_last and is_key):
            owners = [owner for owner in owners if part in _tags(owner)] or owners
            continue
        key.append(part)
        here = here.get(part) if isinstance(here, dict) else None
        if not (is_last and is_key):
            owners = [model for field in fields for model in models_in(field.annotation)]
    return owners, ".".join(key)


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """What pydantic puts into a location for a member of a union."""
    field = model.model_fields.get("type")
    return (model.__name__,) if field is None else typing.get_args(field.annotation)
