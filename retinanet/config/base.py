"""Base class of every config record, with shared number types and the markers that describe a key."""

import typing
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class StrictModel(BaseModel):
    """Frozen record that rejects unknown keys and silent conversions: `true` is not 1, `"10"` is not 10.

    The string below a field is its description, which appears in docs/config.md.
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
    """A property of a config key, attached by the `Annotated` type of its field; `facts.py` reads it.

    On a field that holds a section, it applies to every key in the section.
    """

    MAY_CHANGE_ON_RESUME = "may change on resume"
    NO_EFFECT_ON_RESULTS = "no effect on results"


MAY_CHANGE_ON_RESUME = KeyFact.MAY_CHANGE_ON_RESUME
NO_EFFECT_ON_RESULTS = KeyFact.NO_EFFECT_ON_RESULTS


def as_tuple(value: Any) -> Any:
    """Wrap a single value, so that a single data source or image side need not be a list."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Config records that a type annotation mentions: the members of a union, the items of a list."""
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
