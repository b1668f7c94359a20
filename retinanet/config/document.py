"""Generate docs/config.md from the schema: every key with its type, default and meaning."""

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retinanet.config.base import KeyFact, as_tuple, models_in
from retinanet.config.schema import Config

PAGE = Path("docs/config.md")

_INTRODUCTION = """\
# Config

<!-- Generated from the schema by `python -m retinanet.config`; do not edit. -->

One YAML file describes a run. It contains only the keys that differ from the defaults below. Pass its path, or the name
of a bundled config, to a command, followed by overrides:

    retinanet train quickstart train.epochs=3 train.seed=1

- An unknown key, a value of the wrong type, or a contradiction between keys is an error; the message names the key.
- `base: NAME.yaml` inherits from another file, which must not have a `base` itself. Mappings are merged; lists are
  replaced.
- Paths are relative to the working directory. `~` at their start, and environment variables such as `$DATA` and
  `${DATA}`, are expanded; write `$$` for a dollar sign. In an override, a path needs no YAML quotes:
  `"data.train=/data/set #1"`.
- A section with several variants has a `type` key. If you leave it out, your keys modify the variant selected by the
  base or by default. If you set a different `type`, all other keys start from the defaults of the new variant.
- Every checkpoint contains the complete config. When you resume a run, only keys marked "may change" can have new
  values.
"""


def config_page() -> str:
    """Generate the text of docs/config.md."""
    return "\n".join([_INTRODUCTION, *_record(Config, key="", level=1, may_change=False)]) + "\n"


def _record(model: type[BaseModel], *, key: str, level: int, may_change: bool) -> Iterator[str]:
    """Yield a table of the keys in a record, then a section for each key that is itself a record."""
    fields = {name: field for name, field in model.model_fields.items() if name != "type"}
    rows = [_row(name, field, may_change) for name, field in fields.items() if not _is_section(field)]
    if rows:
        yield "| key | type | default | on resume | meaning |"
        yield "| --- | --- | --- | --- | --- |"
        yield from rows
        yield ""
    for name, field in fields.items():
        if models_in(field.annotation):
            yield from _section(f"{key}{name}", field, level=level + 1, may_change=may_change)


def _section(key: str, field: FieldInfo, *, level: int, may_change: bool) -> Iterator[str]:
    """Yield the heading and content for a key whose value is a record, a union of records, or a list of records."""
    may_change = may_change or KeyFact.MAY_CHANGE_ON_RESUME in field.metadata
    yield f"{'#' * min(level, 4)} `{key}`"
    yield ""
    for model in models_in(field.annotation):
        tag = _tag(model)
        is_default = " (default)" if type(field.default) is model else ""
        meaning = _paragraphs(model)
        yield f"**`type: {tag}`**{is_default}. {meaning}" if tag else meaning
        yield ""
        yield from _record(model, key=f"{key}.", level=level, may_change=may_change)


def _row(name: str, field: FieldInfo, may_change: bool) -> str:
    may_change = may_change or KeyFact.MAY_CHANGE_ON_RESUME in field.metadata
    default = "required" if field.is_required() else f"`{_value(field.default)}`"
    cells = [
        f"`{name}`",
        _type(field.annotation, field.metadata),
        default,
        "may change" if may_change else "",
        " ".join((field.description or "").split()),
    ]
    return "| " + " | ".join(cells) + " |"


def _is_section(field: FieldInfo) -> bool:
    """Whether a field always contains a single record and is therefore documented only in its own section."""
    return bool(models_in(field.annotation)) and (field.is_required() or isinstance(field.default, BaseModel))


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("type")
    return None if field is None else typing.get_args(field.annotation)[0]


def _paragraphs(model: type[BaseModel]) -> str:
    """Docstring of a record, with each paragraph on one line."""
    text = inspect.cleandoc(model.__doc__ or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Type and limits of a value in YAML terms."""
    if typing.get_origin(annotation) is Annotated:
        inner, *extra = typing.get_args(annotation)
        fields = [part for item in extra for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _type(inner, [*metadata, *fields])
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        records = [_tag(argument) for argument in arguments if models_in(argument) == [argument]]
        if len(records) == len(arguments):
            return "one of " + ", ".join(f"`{tag}`" for tag in records)
        return " or ".join(_type(argument) for argument in arguments)
    if typing.get_origin(annotation) is tuple:
        if arguments[-1] is not Ellipsis:
            return f"list of {len(arguments)} ({_type(arguments[0])})"
        item = _type(arguments[0])
        single = any(getattr(part, "func", None) is as_tuple for part in metadata)
        return f"{item}, or a list of them" if single else f"list ({item})"
    if models_in(annotation):
        return "mapping"
    return ", ".join([_NAMES[annotation], *_limits(metadata)])


_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}


def _limits(metadata: Sequence[Any]) -> list[str]:
    found = {
        name: _value(getattr(item, name))
        for name in ("gt", "ge", "lt", "le")
        for item in metadata
        if getattr(item, name, None) is not None
    }
    if found.keys() == {"ge", "le"}:
        return [f"{found['ge']} to {found['le']}"]
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return [f"{signs[name]} {limit}" for name, limit in found.items()]


def _value(value: Any) -> str:
    """Format a default as YAML, with six significant digits for numbers."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case tuple():
            return f"[{', '.join(map(_value, value))}]"
        case BaseModel():
            return "{" + ", ".join(f"{name}: {_value(item)}" for name, item in value) + "}"
    return str(value)
