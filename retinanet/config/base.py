"""The base of every config record, and the number types that several of them share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class StrictModel(BaseModel):
    """Frozen, no unknown keys, no silent conversion: true is not 1, "10" is not 10."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def as_tuple(value: Any) -> Any:
    """A single source stands for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
