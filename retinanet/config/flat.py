"""A config as a flat mapping from dotted keys to values."""

import json
from typing import Any

from retinanet.config.schema import Config


def flat_config(cfg: Config) -> dict[str, Any]:
    """Map dotted keys to the values of a config, converted to JSON types."""
    return flatten(json.loads(cfg.model_dump_json()))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one mapping with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result
