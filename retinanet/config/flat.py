"""A config as one flat mapping of dotted keys to values."""

import json
from typing import Any

from retinanet.config.schema import Config


def flat_config(cfg: Config) -> dict[str, Any]:
    """The values of a config by dotted key, as JSON represents them."""
    return flat(json.loads(cfg.model_dump_json()))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as a single one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result
