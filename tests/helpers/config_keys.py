"""The keys of the config schema."""

from pydantic import BaseModel

from retinanet.config.base import models_in


def schema_keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every dotted key below a record, including sections and all members of unions."""
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(prefix + name)
        for member in models_in(field.annotation):
            keys |= schema_keys(member, f"{prefix}{name}.")
    return keys
