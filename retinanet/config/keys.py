"""The dotted keys of the schema, and hints for a key that is not one of them."""

import difflib
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retinanet.config.base import PATH, as_tuple, models_in
from retinanet.config.schema import Config

MAX_SUGGESTIONS = 3


@cache  # the paths and overrides of a config look up many keys
def schema_keys() -> Mapping[str, list[type[BaseModel]]]:
    """Map every key that an override can set, including sections, to the records that define it.

    Several variants of a section may define the same key. Keys inside list items are omitted.
    """
    keys: dict[str, list[type[BaseModel]]] = {}
    _add_keys(keys, Config, "")
    return keys


def takes_text(key: str) -> bool:
    """Whether the value of a dotted key may be any text, such as a path."""
    name = key.rpartition(".")[2]
    fields = [owner.model_fields[name] for owner in schema_keys().get(key, [])]
    return any(
        PATH in field.metadata or str in (field.annotation, *typing.get_args(field.annotation)) for field in fields
    )


def _add_keys(keys: dict[str, list[type[BaseModel]]], record: type[BaseModel], prefix: str) -> None:
    for name, field in record.model_fields.items():
        keys.setdefault(prefix + name, []).append(record)
        for section in _sections(field):
            _add_keys(keys, section, f"{prefix}{name}.")


def _sections(field: FieldInfo) -> list[type[BaseModel]]:
    """Records that a field may contain directly, or as the only item of a list that can be written without brackets."""
    if any(getattr(part, "func", None) is as_tuple for part in field.metadata):
        return models_in(field.annotation)
    return _outside_lists(field.annotation)


def _outside_lists(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) is tuple:
        return []
    return [model for argument in typing.get_args(annotation) for model in _outside_lists(argument)]


def keys_with_leaf(name: str, *, section: str = "") -> list[str]:
    """Find a few keys whose last part is `name`, or similar to `name` if no key matches exactly.

    Args:
        section: where the name was found, such as `train`. Keys in the same section come first. Below a top-level
            section, only keys of the same top-level section count, because others are unlikely to be meant.
    """
    by_leaf: dict[str, list[str]] = {}
    top, _, below = section.partition(".")
    for key in schema_keys():
        if not below or key.startswith(f"{top}."):
            by_leaf.setdefault(key.rpartition(".")[2], []).append(key)
    leaves = [name] if name in by_leaf else difflib.get_close_matches(name, by_leaf, MAX_SUGGESTIONS, 0.8)
    found = [key for leaf in leaves for key in by_leaf[leaf]]
    return sorted(found, key=lambda key: not key.startswith(f"{section}."))[:MAX_SUGGESTIONS]


def one_of(names: Iterable[object]) -> str:
    """Format alternatives: "'a'", "'a' or 'b'", "'a', 'b' or 'c'"."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last
