"""Strict YAML: JSON types only, no ambiguous values, no duplicate keys, no aliases."""

import re
from pathlib import Path
from typing import Any

import yaml

from retinanet.errors import InputError

MAX_BYTES = 1_000_000  # maximum size of a config file


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that reads 1e-3 as a number and 12:30 as text, and rejects duplicate keys and aliases."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        # Nested aliases expand exponentially: a few lines could exhaust memory.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"the alias *{event.anchor} is not supported; write the value out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (
            ValueError,
            LookupError,
        ) as error:  # thousands of digits, or a tag such as !!int on a word
            problem = f"cannot be read as a value ({str(error).partition(';')[0]})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_NUMBER = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("float", "int", "timestamp", "merge", "value")}
# The JSON types. No config key takes a date, a set or bytes.
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
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _refuse_tag(loader: _Loader, node: yaml.Node) -> None:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    problem = f"the tag {tag} is not supported; give a plain value"
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.yaml_constructors = {
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in _KNOWN_TAGS
}
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor(None, _refuse_tag)


class _TextLoader(_Loader):
    """Loader that reads every plain value as the literal text, because `no` and 1.0 may be names."""


_TextLoader.yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes text, such as 1e-3, if this loader or a standard one would read it as another type."""


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *_Loader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def read_yaml(file: Path, *, as_text: bool = False) -> dict[str, Any]:
    """Read a YAML file as a mapping; an empty file gives an empty mapping.

    Args:
        as_text: read numbers, booleans, null and so on as text, and accept them as keys.

    Raises:
        InputError: the file cannot be read, or does not contain a YAML mapping.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file}: {file.stat().st_size} bytes, exceeds the limit of {MAX_BYTES} bytes")
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text: {error}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    values = parse_yaml(text, f"{file}:", as_text=as_text)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{file}: found {yaml_type(values)} at the top level, expected a mapping such as train: ...")
    return values


def parse_yaml(text: str, source: str, *, as_text: bool = False) -> Any:
    """Parse one YAML value; with `as_text`, every plain value is text.

    Raises:
        InputError: the text is not valid YAML; the message starts with `source`.
    """
    try:
        return yaml.load(text, _TextLoader if as_text else _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{source} cannot be read as YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise InputError(f"{source} is nested too deeply for a config") from None


def dump_yaml(values: dict[str, Any]) -> str:
    """Convert values to YAML that `parse_yaml` reads back unchanged, keeping the order of the keys."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)


def yaml_type(value: Any) -> str:
    """Type of a value in YAML terms, for error messages."""
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", dict: "mapping"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or str(error).splitlines()[0])
