"""`assignment`: which anchors are positive, negative or ignored."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retinanet.config.base import Count, Share, StrictModel, type_by_default


class IoUAssignmentConfig(StrictModel):
    """Assignment by IoU with the ground-truth boxes (Lin et al. 2017, section 4)."""

    type: Literal["iou"] = "iou"
    fg_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    """An anchor is positive if its IoU with a ground-truth box is at least this value."""
    bg_iou: Share = 0.4
    """An anchor is negative if its highest IoU is below this value, and ignored between `bg_iou` and `fg_iou`."""
    low_quality_matches: bool = True
    """Whether the anchors with the highest IoU with an object are positive even below `fg_iou`. As in torchvision, each
    is matched to the object that it overlaps most, so an object can lose all its anchors to a neighbour."""
    match_every_object: bool = False
    """Whether an object without a matched anchor gets the anchor with the highest IoU, unless that anchor is another
    object's best."""
    ignore_ioa: Share = 0.5
    """A negative anchor is ignored if at least this fraction of its area is in a crowd region; 0 turns this off."""

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.bg_iou > self.fg_iou:
            raise ValueError(f"bg_iou {self.bg_iou} is above fg_iou {self.fg_iou}")
        return self


class ATSSAssignmentConfig(StrictModel):
    """Adaptive training sample selection (Zhang et al. 2020): each object has its own IoU threshold."""

    type: Literal["atss"] = "atss"
    anchors_per_level: Count = 9
    """Number of candidate anchors per object and level, nearest first. With 9 anchors per cell, 9 covers one cell."""
    ignore_ioa: Share = 0.5
    """A negative anchor is ignored if at least this fraction of its area is in a crowd region; 0 turns this off."""


AssignmentConfig = Annotated[
    Annotated[IoUAssignmentConfig | ATSSAssignmentConfig, Field(discriminator="type")], type_by_default("iou")
]
