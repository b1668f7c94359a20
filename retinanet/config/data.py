"""`data`: annotation sources, classes, resizing and augmentation."""

import os
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from retinanet.config.base import (
    MAY_CHANGE_ON_RESUME,
    NO_EFFECT_ON_RESULTS,
    Count,
    CountOrZero,
    StrictModel,
    as_tuple,
)
from retinanet.config.sampling import AllSampling, Sampling
from retinanet.config.transforms import FlipTransform, ResizeTransform, Transform


class DataSource(StrictModel):
    """An annotation file and the folder that contains its images."""

    images: str
    """Image folder; file names in the annotations are relative to it."""
    annotations: str
    """Annotation file in COCO format."""

    @field_validator("images", "annotations", mode="before")
    @classmethod
    def path_as_text(cls, value: Any) -> Any:
        """Accept a `Path` when a record is built in Python."""
        return os.fspath(value) if isinstance(value, os.PathLike) else value


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(as_tuple)]


class MergedClass(StrictModel):
    """A class that combines several annotation categories."""

    name: str
    """Name of the class."""
    merge: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the categories to merge."""


class ResizeConfig(StrictModel):
    """Image sizes and padded batch shapes.

    The shorter side of an image is resized to `shorter`, unless the longer side would then exceed `longer`. In
    that case, the longer side is resized to `longer`.
    """

    shorter: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (800,)
    """Shorter side in pixels. If several values are given, one is drawn at random for each training batch."""
    longer: Count = 1333
    """Maximum length of the longer side in pixels."""
    val_shorter: Count | None = None
    """Shorter side in pixels for evaluation and prediction; null: the largest value in `shorter`."""
    bucket_aspects: tuple[Annotated[float, Field(ge=1)], ...] = (1.0, 1.34, 1.5)
    """Aspect-ratio buckets (longer / shorter side). Each defines a padded shape, and an image uses the first shape it
    fits in. A final shape, determined by `longer`, is always added."""
    divisor: Count = 32
    """Both sides of every padded shape are multiples of this number."""

    @model_validator(mode="after")
    def longer_is_longer(self) -> Self:
        largest = max((*self.shorter, self.val_shorter or 0))
        if self.longer < largest:
            raise ValueError(f"longer {self.longer} is below shorter {largest}")
        return self


class DataConfig(StrictModel):
    """Annotation sources, classes, resizing and augmentation."""

    train: Annotated[Sources, MAY_CHANGE_ON_RESUME] = ()  # files may move; images are compared separately
    """Training set: one source or a list of sources."""
    val: Annotated[Sources, MAY_CHANGE_ON_RESUME] = ()
    """Validation set: one source or a list of sources."""
    classes: Annotated[tuple[str | MergedClass, ...], Field(min_length=1)] | None = None
    """Classes in order, each a category name or a merged class; null: every training category, by id."""
    keep_empty: bool = True
    """Whether to train on images without boxes."""
    strict: bool = False
    """Whether invalid boxes raise an error. By default, they are dropped or clipped, counted, and listed once."""
    max_pixels: Annotated[Count, MAY_CHANGE_ON_RESUME] = 100_000_000
    """Images with more pixels than this are rejected before decoding."""
    max_unreadable: Annotated[CountOrZero, MAY_CHANGE_ON_RESUME] = 10
    """Maximum number of unreadable training images. Each is replaced by another image; with more, the run stops."""
    workers: Annotated[CountOrZero, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = 2
    """Number of processes that load images; 0 loads them in the training process."""
    resize: ResizeConfig = ResizeConfig()
    """Image sizes and padded shapes."""
    transforms: tuple[Transform, ...] = (ResizeTransform(), FlipTransform())
    """Training transforms in order; exactly one of them must be `resize` or `scale_jitter`."""
    close_last_epochs: CountOrZero = 0
    """In the last so many epochs, the transforms `mosaic`, `mixup`, `copy_paste`, `zoom_out` and `erase` are off."""
    sampling: Sampling = AllSampling()
    """How often each training image is used in an epoch."""

    @model_validator(mode="after")
    def one_resize(self) -> Self:
        kinds = [step.type for step in self.transforms if step.type in ("resize", "scale_jitter")]
        if len(kinds) != 1:
            raise ValueError(f"transforms has {kinds or 'no resize'}; set exactly one of resize and scale_jitter")
        return self
