"""`data.transforms`: resizing and augmentation of training images."""

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from retinanet.config.base import Count, Positive, Share, StrictModel, as_tuple

Angle = Literal[90, 180, 270]


class TransformConfig(StrictModel):
    """Base of all transforms."""

    is_strong: ClassVar[bool] = False  # whether images become unrealistic; see `data.close_last_epochs`

    @property
    def rgb_only(self) -> str:
        """Why the transform applies only to RGB images, and what to set for others; empty if it applies to all."""
        return ""


class ResizeTransform(TransformConfig):
    """Resize the image to fit its padded shape, keeping its aspect ratio."""

    type: Literal["resize"] = "resize"


class ScaleJitterTransform(TransformConfig):
    """Resize the image to fit its padded shape, scale it by a random factor, and crop it at random if needed.

    Large-scale jitter uses factors from 0.1 to 2.
    """

    type: Literal["scale_jitter"] = "scale_jitter"
    min: Positive = 0.8
    """Minimum factor."""
    max: Positive = 1.25
    """Maximum factor."""

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class FlipTransform(TransformConfig):
    """Flip the image horizontally."""

    type: Literal["flip"] = "flip"
    p: Share = 0.5
    """Probability of flipping."""


class VerticalFlipTransform(TransformConfig):
    """Flip the image vertically."""

    type: Literal["vertical_flip"] = "vertical_flip"
    p: Share = 0.5
    """Probability of flipping."""


class Rotate90Transform(TransformConfig):
    """Rotate the image by a multiple of 90 degrees, and shrink it if it no longer fits its padded shape."""

    type: Literal["rotate90"] = "rotate90"
    p: Share = 0.5
    """Probability of rotating."""
    angles: Annotated[tuple[Angle, ...], BeforeValidator(as_tuple), Field(min_length=1)] = get_args(Angle)
    """Angles in degrees, anticlockwise; one is drawn at random."""


class CropTransform(TransformConfig):
    """Crop a window of a fixed size at random. A side of the image shorter than the window is kept whole."""

    type: Literal["crop"] = "crop"
    size: tuple[Count, Count]
    """Height and width of the window, in pixels of the image after the preceding transforms."""


class IoUCropTransform(TransformConfig):
    """Crop a random window whose IoU with some object is at least a random minimum, as in SSD.

    Objects whose centre is outside the window are removed.
    """

    type: Literal["iou_crop"] = "iou_crop"
    p: Share = 1.0
    """Probability of attempting to crop; in one of seven cases, SSD's rule keeps the whole image."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Minimum height and width of the window as fractions of the image's."""


class ZoomOutTransform(TransformConfig):
    """Shrink the image by a random factor, and place it at random on a blank image of the original size."""

    type: Literal["zoom_out"] = "zoom_out"
    is_strong: ClassVar[bool] = True
    p: Share = 0.5
    """Probability of shrinking."""
    max: Annotated[float, Field(gt=1)] = 4.0
    """Maximum factor by which both sides are divided."""


class ColorTransform(TransformConfig):
    """Randomly change brightness, contrast, saturation and hue, the latter two only in RGB images."""

    type: Literal["color"] = "color"
    brightness: Share = 0.2
    """Brightness is multiplied by a random factor between 1 - `brightness` and 1 + `brightness`."""
    contrast: Share = 0.2
    """Contrast is multiplied by a random factor between 1 - `contrast` and 1 + `contrast`."""
    saturation: Share = 0.2
    """Saturation is multiplied by a random factor between 1 - `saturation` and 1 + `saturation`."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Hue is shifted at random by at most this fraction of the colour wheel, in either direction."""

    @property
    def rgb_only(self) -> str:
        changed = [name for name, value in (("saturation", self.saturation), ("hue", self.hue)) if value]
        return f"it changes {' and '.join(changed)}; set saturation: 0 and hue: 0" if changed else ""


class PhotometricTransform(TransformConfig):
    """Randomly change brightness, contrast, saturation, hue and the order of the channels, as in SSD.

    Only for RGB images.
    """

    type: Literal["photometric"] = "photometric"
    p: Share = 0.5
    """Probability of each of the five changes."""

    @property
    def rgb_only(self) -> str:
        return (
            "it changes saturation, hue and the order of the channels; use {type: color, saturation: 0, hue: 0} instead"
        )


class BlurTransform(TransformConfig):
    """Blur the image with a Gaussian filter."""

    type: Literal["blur"] = "blur"
    p: Share = 0.5
    """Probability of blurring."""
    max_sigma: Annotated[float, Field(ge=0.1)] = 2.0
    """Maximum standard deviation of the filter in pixels; the minimum is 0.1."""


class EraseTransform(TransformConfig):
    """Blank out a random rectangle. Objects that are more than 70% covered are removed."""

    type: Literal["erase"] = "erase"
    is_strong: ClassVar[bool] = True
    p: Share = 0.5
    """Probability of erasing."""
    max_area: Annotated[float, Field(ge=0.02, le=1)] = 0.33
    """Maximum area of the rectangle as a fraction of the image's; the minimum is 0.02."""


class MosaicTransform(TransformConfig):
    """Combine the image and three others in one of the same size, around a random centre.

    Each is resized and cropped to fill a rectangle whose sides are a quarter to three quarters of the image's.
    """

    type: Literal["mosaic"] = "mosaic"
    is_strong: ClassVar[bool] = True
    p: Share = 0.5
    """Probability of combining."""


class MixUpTransform(TransformConfig):
    """Blend the image with another one. The objects of both are kept."""

    type: Literal["mixup"] = "mixup"
    is_strong: ClassVar[bool] = True
    p: Share = 0.5
    """Probability of blending."""
    alpha: Annotated[float, Field(ge=1)] = 32.0
    """The weight of the image is drawn from Beta(`alpha`, `alpha`): close to 0.5 for a large `alpha`, uniform for 1."""


class CopyPasteTransform(TransformConfig):
    """Copy the boxes of some objects from another image, and paste them at random positions.

    Objects that are more than 70% covered by a pasted box are removed.
    """

    type: Literal["copy_paste"] = "copy_paste"
    is_strong: ClassVar[bool] = True
    p: Share = 0.5
    """Probability of pasting."""
    max_objects: Count = 3
    """Maximum number of objects to paste; the number is drawn uniformly, starting at 1."""


Transform = Annotated[
    ResizeTransform
    | ScaleJitterTransform
    | FlipTransform
    | VerticalFlipTransform
    | Rotate90Transform
    | CropTransform
    | IoUCropTransform
    | ZoomOutTransform
    | ColorTransform
    | PhotometricTransform
    | BlurTransform
    | EraseTransform
    | MosaicTransform
    | MixUpTransform
    | CopyPasteTransform,
    Field(discriminator="type"),
]
