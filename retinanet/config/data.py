"""`data`: annotation sources, classes, resizing and augmentation."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from retinanet.config.base import Count, Positive, Share, StrictModel, as_tuple


class DataSource(StrictModel):
    """One annotation file in COCO form, and the folder that its file names are relative to."""

    images: str
    annotations: str


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(as_tuple)]


class MergedClass(StrictModel):
    """A class made of several categories of the annotations."""

    name: str
    merge: Annotated[tuple[str, ...], Field(min_length=1)]


class ResizeTransform(StrictModel):
    """Fit the image into its batch's shape, keeping its aspect ratio."""

    type: Literal["resize"] = "resize"


class ScaleJitterTransform(StrictModel):
    """Fit times a random factor; what is then larger than the batch's shape is cropped at random."""

    type: Literal["scale_jitter"] = "scale_jitter"
    min: Positive = 0.8
    max: Positive = 1.25

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class FlipTransform(StrictModel):
    """Left and right swapped."""

    type: Literal["flip"] = "flip"
    p: Share = 0.5


class ColorTransform(StrictModel):
    """Brightness, contrast, saturation and hue, each drawn around what it was."""

    type: Literal["color"] = "color"
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.2
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.2
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


Transform = Annotated[
    ResizeTransform | ScaleJitterTransform | FlipTransform | ColorTransform, Field(discriminator="type")
]


class ResizeConfig(StrictModel):
    """How large images are, and the few padded shapes that batches come in.

    An image's shorter side becomes `shorter`, unless its longer side would pass `longer`: then that decides.
    """

    # One is drawn for each training batch.
    shorter: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (800,)
    longer: Count = 1333
    val_shorter: Count | None = None  # none: the largest of `shorter`
    # A padded shape for each: longer / shorter side. The first that holds the image is used; `longer` is the last.
    bucket_aspects: tuple[Annotated[float, Field(ge=1)], ...] = (1.0, 1.34, 1.5)
    divisor: Count = 32  # padded sides are multiples of it

    @model_validator(mode="after")
    def longer_is_longer(self) -> Self:
        largest = max((*self.shorter, self.val_shorter or 0))
        if self.longer < largest:
            raise ValueError(f"longer {self.longer} is below shorter {largest}")
        return self


class DataConfig(StrictModel):
    train: Sources = ()
    val: Sources = ()
    # none: all categories of the training set, by their ids
    classes: Annotated[tuple[str | MergedClass, ...], Field(min_length=1)] | None = None
    keep_empty: bool = True  # whether images without boxes are trained on
    strict: bool = False  # refuse unusable boxes; else they are dropped, counted and listed once
    max_pixels: Count = 100_000_000  # a larger image is refused before it is decoded
    # Images that cannot be read while training are replaced by others; with more of them than this a run ends.
    max_unreadable: Annotated[int, Field(ge=0)] = 10
    workers: Annotated[int, Field(ge=0)] = 2  # processes that read images; 0 reads in the training process
    resize: ResizeConfig = ResizeConfig()
    transforms: tuple[Transform, ...] = (ResizeTransform(), FlipTransform())

    @model_validator(mode="after")
    def one_resize(self) -> Self:
        kinds = [step.type for step in self.transforms if step.type in ("resize", "scale_jitter")]
        if len(kinds) != 1:
            raise ValueError(f"transforms has {kinds or 'no resize'}; give exactly one of resize and scale_jitter")
        return self
