"""Expand `~` and environment variables in the paths of a config."""

import os
import re
from collections.abc import Callable
from typing import Any

from retinanet.config.base import PATH
from retinanet.config.keys import schema_keys
from retinanet.errors import InputError

_VARIABLE = re.compile(r"\$(?:([$~])|([A-Za-z_][A-Za-z0-9_]*)|\{([^{}$]*)\})")


def expand_path(path: str, where: str) -> str:
    """Expand `~` at the start of a path, and `$NAME` or `${NAME}`; `$$` and `$~` stand for literal `$` and `~`.

    Args:
        where: the option or key that contains the path, for error messages.

    Raises:
        InputError: a variable is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        character, *names = match.groups()
        if character:
            return character
        name = names[0] or names[1] or ""
        if name not in os.environ:
            raise InputError(
                f"{where}: the environment variable {name} in {path!r} is not set; "
                "set it, or write $$ for a dollar sign"
            )
        return os.environ[name]

    return _VARIABLE.sub(value_of, os.path.expanduser(path))


def escape_path(path: str) -> str:
    """Write a path so that `expand_path` returns it unchanged."""
    escaped = path.replace("$", "$$")
    return f"${escaped}" if escaped.startswith("~") else escaped


def expand_paths(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Expand the values of all keys that may be paths. `source` names the config in errors.

    Raises:
        InputError: an environment variable is not set.
    """
    return map_paths(values, lambda path, key: expand_path(path, f"{source}: {key}"))


def escape_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Escape the values of all keys that may be paths, so that `expand_paths` returns them unchanged."""
    return map_paths(values, lambda path, key: escape_path(path))


def is_path_key(key: str) -> bool:
    """Whether the value of a dotted key may be a path."""
    *_, name = key.split(".")
    return any(PATH in owner.model_fields[name].metadata for owner in schema_keys().get(key, []))


def map_paths(values: Any, function: Callable[[str, str], str], key: str = "") -> Any:
    """Apply a function of the value and the dotted key to the values of all keys that may be paths."""
    if isinstance(values, dict):
        return {name: map_paths(value, function, f"{key}.{name}".lstrip(".")) for name, value in values.items()}
    if isinstance(values, list):  # several data sources
        return [map_paths(value, function, key) for value in values]
    return function(values, key) if isinstance(values, str) and is_path_key(key) else values
