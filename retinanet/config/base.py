"""Base class of all config records, shared number types, and markers for properties of config keys."""

import typing
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class StrictModel(BaseModel):
    """Frozen record that rejects unknown keys and implicit conversions (`true` to 1, `"10"` to 10).

    The string below a field is its description in docs/config.md.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


class KeyFact(Enum):
    """A property of a config key, declared in the `Annotated` type of its field and read by `facts.py`.

    If the field is a section, the property applies to every key in it. `PATH` is the exception: it means that the value
    itself may be a path, even if it may also be a section or a list.
    """

    MAY_CHANGE_ON_RESUME = "may change on resume"
    NO_EFFECT_ON_RESULTS = "no effect on results"
    PATH = "path"


MAY_CHANGE_ON_RESUME = KeyFact.MAY_CHANGE_ON_RESUME
NO_EFFECT_ON_RESULTS = KeyFact.NO_EFFECT_ON_RESULTS
PATH = KeyFact.PATH


def as_tuple(value: Any) -> Any:
    """Wrap a single value in a tuple: a single data source or image size need not be written as a list."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def type_by_default(name: str) -> BeforeValidator:
    """A validator that treats a record without a type as one of the named type."""
    return BeforeValidator(lambda value: {"type": name} | value if isinstance(value, dict) else value)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Find the config records in a type annotation, such as union members or list items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]

Precision = Literal["auto", "bf16", "fp16", "fp32"]
APMetric = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]
