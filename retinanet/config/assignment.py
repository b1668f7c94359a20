"""`assignment`: which anchors learn which objects."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from retinanet.config.base import Count, Share, StrictModel


class IoUAssignmentConfig(StrictModel):
    type: Literal["iou"] = "iou"
    fg_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    bg_iou: Share = 0.4
    low_quality_matches: bool = True
    ignore_ioa: Share = 0.5  # 0: crowd regions are background

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.bg_iou > self.fg_iou:
            raise ValueError(f"bg_iou {self.bg_iou} is above fg_iou {self.fg_iou}")
        return self


class ATSSAssignmentConfig(StrictModel):
    type: Literal["atss"] = "atss"
    anchors_per_level: Count = 9  # for each object, the nearest; 9 anchors in a cell are one cell
    ignore_ioa: Share = 0.5  # 0: crowd regions are background


def _iou_unless_named(value: Any) -> Any:
    """Configs of older checkpoints have no type: there was only one."""
    return {"type": "iou"} | value if isinstance(value, dict) else value


AssignmentConfig = Annotated[
    Annotated[IoUAssignmentConfig | ATSSAssignmentConfig, Field(discriminator="type")],
    BeforeValidator(_iou_unless_named),
]
