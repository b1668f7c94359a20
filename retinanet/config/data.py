"""`data`: annotation sources, classes, resizing and augmentation."""

import math
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from retinanet.config.band_files import check_patterns
from retinanet.config.base import (
    MAY_CHANGE_ON_RESUME,
    NO_EFFECT_ON_RESULTS,
    PATH,
    Count,
    CountOrZero,
    StrictModel,
    as_tuple,
)
from retinanet.config.sampling import AllSampling, Sampling
from retinanet.config.transforms import FlipTransform, ResizeTransform, Transform

Format = Literal["auto", "coco", "yolo", "voc", "csv", "labelme", "open_images", "lvis"]
MissingImages = Literal["error", "skip"]


class DataSource(StrictModel):
    """Images and their annotations. In a config, the path can replace the whole record: `train: datasets/cells`."""

    annotations: Annotated[str, PATH]
    """Annotation file or dataset folder."""
    images: Annotated[str | None, PATH] = None
    """Folder that contains the images; file names in the annotations are relative to it. null: inferred from the
    annotations."""
    format: Format = "auto"
    """Annotation format; `auto` detects it."""
    split: str | None = None
    """Split of a dataset folder; null: `train` in `data.train` and `val` in `data.val`, or all if it has no splits."""
    difficult: Literal["ignore", "object"] = "ignore"
    """Treatment of objects marked as difficult in Pascal VOC annotations. ignore: as regions that are neither objects
    nor background."""

    @model_validator(mode="before")
    @classmethod
    def path_alone(cls, value: Any) -> Any:
        """Accept the path of the annotations instead of the whole record."""
        return {"annotations": value} if isinstance(value, str | os.PathLike) else value

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


Range = tuple[float, float]
ValueRange = Literal["auto"] | Range | tuple[Range, ...]


def _range(numbers: Sequence[Any], value: Any) -> Range:
    """Check a range, which is `data.value_range` or one of its entries."""
    is_finite = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    if len(numbers) != 2 or not is_finite or numbers[0] >= numbers[1]:
        raise ValueError(f"found {value!r}, expected auto, or [low, high] with low below high")
    return (float(numbers[0]), float(numbers[1]))


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

    @property
    def eval_shorter(self) -> int:
        """Shorter side of images in evaluation and prediction, in pixels."""
        return self.val_shorter or max(self.shorter)


class DataConfig(StrictModel):
    """Annotation sources, classes, resizing and augmentation."""

    train: Annotated[Sources, MAY_CHANGE_ON_RESUME, PATH] = ()  # files may move; images are compared separately
    """Training set: one source or a list of sources."""
    val: Annotated[Sources, MAY_CHANGE_ON_RESUME, PATH] = ()
    """Validation set: one source or a list of sources."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the training set to hold out for validation if `data.val` is empty. Images are selected by a hash of
    their file names, so adding images does not move existing ones from one set to the other."""
    val_group: str | None = None
    """Which images must stay in the same set when some are held out: those in the same `folder`, or those for which the
    first group of a regular expression, such as `^(.*)_frame`, matches the same part of the file name; null: none."""
    classes: Annotated[tuple[str | MergedClass, ...], Field(min_length=1)] | None = None
    """Classes in order, each a category name or a merged class; null: all training categories, ordered by id."""
    keep_empty: bool = True
    """Whether to train on images without boxes."""
    strict: bool = False
    """Whether invalid boxes raise an error. By default, they are dropped or clipped, counted, and listed once."""
    missing_images: Annotated[MissingImages, MAY_CHANGE_ON_RESUME] = "error"
    """What to do about missing images. skip: omit them with a warning, up to half of a source."""
    allow_outside_paths: Annotated[bool, MAY_CHANGE_ON_RESUME] = False
    """Whether annotations may refer to images outside `images`, by absolute paths or `..`; only for trusted files."""
    max_pixels: Annotated[Count, MAY_CHANGE_ON_RESUME] = 100_000_000
    """Images with more pixels than this are rejected before decoding. With `inference.tile.size`, larger TIFFs can be
    predicted on, because they are not decoded at once."""
    value_range: ValueRange = "auto"
    """Sample values [low, high] that are mapped to 0 and 255 in images with 16-bit, 32-bit, signed or floating-point
    samples, or a list with such a range for each channel; 8-bit images are not scaled. `auto` chooses a range for each
    image: from 0 to the smallest of 255, 1023, 4095, 16383 and 65535 that is not below its maximum (or to 1 for
    floating-point samples in 0..1), or from minimum to maximum if values are negative or larger. Up to three bands of a
    file share this range; if more are used, each has its own. The training log shows the ranges."""
    bands: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(max_length=16)] | None = None
    """Bands to use as channels, counted from 1, such as [3, 2, 1]: as many as `model.in_channels`, or a single band to
    use as greyscale. null: all bands except alpha; for three channels, the first three or the only one."""
    band_files: tuple[str, ...] | None = None
    """Patterns of the files that together contain the bands of an image, such as ["{stem}.png", "../ir/{stem}.tif"].
    The first matches the end of the path in the annotations; a placeholder in braces stands for the same text in all
    patterns. The bands of all files, except alpha, are numbered in this order. null: one file per image."""
    max_unreadable: Annotated[CountOrZero, MAY_CHANGE_ON_RESUME] = 10
    """Maximum number of unreadable training images, which are replaced with other images. With more, the run stops."""
    workers: Annotated[CountOrZero, MAY_CHANGE_ON_RESUME, NO_EFFECT_ON_RESULTS] = 2
    """Number of processes that load images; 0 loads them in the training process."""
    resize: ResizeConfig = ResizeConfig()
    """Image sizes and padded shapes."""
    transforms: tuple[Transform, ...] = (ResizeTransform(), FlipTransform())
    """Training transforms in order; exactly one of them must be `resize` or `scale_jitter`."""
    close_last_epochs: CountOrZero = 0
    """Number of epochs at the end of a run in which the transforms `mosaic`, `mixup`, `copy_paste`, `zoom_out` and
    `erase` are disabled."""
    sampling: Sampling = AllSampling()
    """Sampling: how often each training image is used in an epoch."""

    @property
    def has_validation(self) -> bool:
        """Whether there are images to evaluate on."""
        return bool(self.val) or self.val_fraction > 0

    @field_validator("val_group")
    @classmethod
    def valid_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def one_validation_set(self) -> Self:
        if self.val and self.val_fraction:
            raise ValueError("val and val_fraction are both set; set val=[] to hold out part of the training set")
        if self.val_group is not None and not self.val_fraction:
            raise ValueError("val_group has no effect without val_fraction")
        return self

    @field_validator("value_range", mode="before")
    @classmethod
    def auto_or_ranges(cls, value: Any) -> Any:
        if value == "auto":
            return value
        entries = list(value) if isinstance(value, list | tuple) else []
        if entries and all(isinstance(entry, list | tuple) for entry in entries):
            ranges = tuple(_range(entry, value) for entry in entries)
            return ranges[0] if len(ranges) == 1 else ranges
        return _range(entries, value)

    @field_validator("band_files")
    @classmethod
    def usable_patterns(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None:
            check_patterns(value)
        return value

    @model_validator(mode="after")
    def one_resize(self) -> Self:
        kinds = [step.type for step in self.transforms if step.type in ("resize", "scale_jitter")]
        if len(kinds) != 1:
            raise ValueError(f"transforms has {kinds or 'no resize'}; set exactly one of resize and scale_jitter")
        return self
