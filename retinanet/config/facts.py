"""Properties of config keys: which may change on resume, and which affect results.

They are read from the schema fields. Unknown keys have no properties: they must not change on resume and are assumed
to affect results.
"""

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retinanet.config.base import KeyFact, models_in
from retinanet.config.schema import Config


def may_change_on_resume(key: str) -> bool:
    """Whether the value of a dotted key, such as `train.grace`, may change when a run is resumed."""
    return _has_fact(key, KeyFact.MAY_CHANGE_ON_RESUME)


def affects_results(key: str) -> bool:
    """Whether a run's weights and metrics depend on the value of a dotted key."""
    return not _has_fact(key, KeyFact.NO_EFFECT_ON_RESULTS)


def _has_fact(key: str, fact: KeyFact) -> bool:
    return any(fact in field.metadata for field in fields_on_path(key))


def fields_on_path(key: str) -> list[FieldInfo]:
    """Fields on the path to a dotted key; at a union, the matching fields of all its members.

    Returns an empty list if the schema has no such key.
    """
    path: list[FieldInfo] = []
    owners: list[type[BaseModel]] = [Config]
    for part in key.split("."):
        fields = [owner.model_fields[part] for owner in owners if part in owner.model_fields]
        if not fields:
            return []
        path += fields
        owners = [model for field in fields for model in models_in(field.annotation)]
    return path
