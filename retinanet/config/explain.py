"""Explain config errors: one line per problem, with the key, found and expected values, and "did you mean" hints."""

import difflib
import json
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from retinanet.config.base import models_in
from retinanet.config.data import MergedClass
from retinanet.config.keys import keys_with_leaf, one_of, schema_keys
from retinanet.config.schema import Config
from retinanet.config.yaml_loader import yaml_type


def explain(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """Describe the problems that the schema found in `values`, one line per problem."""
    return [_explain_one(item, values) for item in error.errors(include_url=False) if _is_informative(item)]


def _is_informative(item: Any) -> bool:
    """Whether an error concerns the union member that the user meant.

    Pydantic reports errors for every member of a union and checks the length of a list after removing invalid items.
    """
    kind, form, found = item["type"], item["loc"][-1:], item["input"]
    if form == ("str",) and kind == "string_type":
        return not isinstance(found, dict)
    if form == (MergedClass.__name__,) and kind in ("dict_type", "model_type", "model_attributes_type"):
        return False
    return kind != "too_short" or len(found) < item["ctx"]["min_length"]


def _explain_one(item: Any, values: dict[str, Any]) -> str:
    location, kind, found = item["loc"], item["type"], item["input"]
    is_key = kind in ("extra_forbidden", "missing")  # the location ends in a key, never in a union tag
    owners, key = _walk(location, values, is_key=is_key)
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_hint_for_unknown(key, owners)}"
    if kind == "missing":
        return f"{key}: missing, and it has no default"
    if kind.startswith("union_tag"):
        tags = [tag for owner in owners for tag in _tags(owner)]
        tag = found.get("type") if isinstance(found, dict) else None
        near = difflib.get_close_matches(tag, tags, 1, 0.6) if isinstance(tag, str) else []
        shown = "missing" if tag is None else f"found {_shown(tag)}"
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{key}.type: {shown}, expected one of {', '.join(map(repr, tags))}{hint}"
    if kind == "value_error":
        return f"{key or 'config'}: {item['ctx']['error']}"
    if kind == "json_invalid":
        return "contains characters that are not valid Unicode, expected UTF-8 text"
    expected = _EXPECTED.get(kind) or item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind in ("too_short", "too_long"):
        side, limit = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        expected = f"at {side} {item['ctx'][limit]} item(s)"
    if kind == "string_type" and not isinstance(found, list | dict):
        expected += ", in quotes"
    found_kind = "" if found is None or isinstance(found, bool) else f" ({yaml_type(found)})"
    return f"{key}: found {_shown(found)}{found_kind}, expected {expected}"


def _hint_for_unknown(key: str, owners: list[type[BaseModel]]) -> str:
    """Suggest what the user may have meant: another `type`, a key of the same name elsewhere, or a similar name."""
    if defining := schema_keys().get(key):
        here, there = (one_of(tag for model in models for tag in _tags(model)) for models in (owners, defining))
        return f" for type {here}; it is a key of type {there}"
    section, _, leaf = key.rpartition(".")
    elsewhere = [name for name in keys_with_leaf(leaf, section=section) if name.rpartition(".")[0] != section]
    # Runs write the section `custom`; users never do.
    known = sorted({field for owner in owners for field in owner.model_fields} - {"custom"})
    same_name = [name for name in elsewhere if name.rpartition(".")[2] == leaf]
    found = same_name or difflib.get_close_matches(leaf, known, 1, 0.6) or elsewhere
    return f"; did you mean {one_of(found)}?" if found else f"; known here: {', '.join(known)}"


_EXPECTED = {  # in YAML terms; pydantic uses JSON terms
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


def _walk(
    location: tuple[str | int, ...], values: dict[str, Any], *, is_key: bool
) -> tuple[list[type[BaseModel]], str]:
    """Resolve an error location to the config records involved and the dotted key.

    If `is_key` is set, these are the records in which the last key was looked up; otherwise, the records that its
    value could have been.
    A location also contains union tags, and index 0 for a data source that is not written as a list. Neither appears
    in the file, so both are skipped.
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
    """Names that pydantic uses for a union member in an error location."""
    field = model.model_fields.get("type")
    return (model.__name__,) if field is None else typing.get_args(field.annotation)
