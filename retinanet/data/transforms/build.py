"""Build transforms from the `data.transforms` section of a config."""

from collections.abc import Sequence

from torchvision.transforms import v2

from retinanet.config import (
    BlurTransform,
    ColorTransform,
    CopyPasteTransform,
    CropTransform,
    EraseTransform,
    FlipTransform,
    IoUCropTransform,
    MixUpTransform,
    MosaicTransform,
    PhotometricTransform,
    ResizeTransform,
    Rotate90Transform,
    ScaleJitterTransform,
    Transform,
    VerticalFlipTransform,
    ZoomOutTransform,
)
from retinanet.data.sampler import PlannedImage
from retinanet.data.transforms.combining import CopyPaste, MixUp, Mosaic
from retinanet.data.transforms.orientation import Flip, Rotate90, VerticalFlip
from retinanet.data.transforms.partners import Partners, SampleTransform
from retinanet.data.transforms.pixels import Blur, BrightnessContrast, Color, Erase
from retinanet.data.transforms.sample import FILL, Sample
from retinanet.data.transforms.sizing import Crop, IoUCrop, Resize, ScaleJitter, ZoomOut


class BeforeEpoch:
    """Apply a transform in the epochs before `end`."""

    def __init__(self, transform: SampleTransform, end: int):
        self.transform = transform
        self.end = end

    def __call__(self, sample: Sample, planned: PlannedImage, partners: Partners) -> Sample:
        return self.transform(sample, planned, partners) if planned.epoch < self.end else sample


def build_transforms(
    cfg: Sequence[Transform], *, fill: Sequence[int] = FILL, close_at: int | None = None
) -> list[SampleTransform]:
    """Build the training transforms, in order.

    Args:
        fill: value of each channel outside any image; its length is the number of channels.
        close_at: first epoch without strong transforms; None: they are applied in all epochs.
    """
    built = [(build_transform(entry, fill), entry.is_strong) for entry in cfg]
    return [
        BeforeEpoch(transform, close_at) if is_strong and close_at is not None else transform
        for transform, is_strong in built
    ]


def build_transform(cfg: Transform, fill: Sequence[int]) -> SampleTransform:
    """Build one transform; `fill` is as in `build_transforms`."""
    match cfg:
        case ResizeTransform():
            return Resize()
        case ScaleJitterTransform():
            return ScaleJitter(cfg.min, cfg.max)
        case FlipTransform():
            return Flip(cfg.p)
        case VerticalFlipTransform():
            return VerticalFlip(cfg.p)
        case Rotate90Transform():
            return Rotate90(cfg.p, cfg.angles)
        case CropTransform():
            return Crop(*cfg.size)
        case IoUCropTransform():
            return IoUCrop(cfg.p, cfg.min_scale)
        case ZoomOutTransform():
            return ZoomOut(cfg.p, cfg.max, fill)
        case ColorTransform() if len(fill) != len(FILL):
            assert not cfg.rgb_only
            return BrightnessContrast(cfg.brightness, cfg.contrast)
        case ColorTransform():
            return Color(v2.ColorJitter(cfg.brightness, cfg.contrast, cfg.saturation, cfg.hue))
        case PhotometricTransform():
            return Color(v2.RandomPhotometricDistort(p=cfg.p))
        case BlurTransform():
            return Blur(cfg.p, cfg.max_sigma)
        case EraseTransform():
            return Erase(cfg.p, cfg.max_area, fill)
        case MosaicTransform():
            return Mosaic(cfg.p, fill)
        case MixUpTransform():
            return MixUp(cfg.p, cfg.alpha)
        case CopyPasteTransform():
            return CopyPaste(cfg.p, cfg.max_objects)
