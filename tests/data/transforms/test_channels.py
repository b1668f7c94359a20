"""Transforms of images with 1 to 16 channels."""

import pytest
import torch
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
    ResizeTransform,
    Rotate90Transform,
    ScaleJitterTransform,
    VerticalFlipTransform,
    ZoomOutTransform,
)
from retinanet.data.transforms.build import build_transform
from retinanet.data.transforms.pixels import BrightnessContrast
from retinanet.data.transforms.sample import FILL, resize
from retinanet.data.transforms.torchvision import TorchvisionTransform
from tests.helpers.samples import apply, noise_sample, partners_of

ANY_CHANNELS = [
    ResizeTransform(),
    ScaleJitterTransform(min=0.5, max=2.0),
    FlipTransform(p=1.0),
    VerticalFlipTransform(p=1.0),
    Rotate90Transform(p=1.0),
    CropTransform(size=(20, 30)),
    IoUCropTransform(),
    ZoomOutTransform(p=1.0),
    BlurTransform(p=1.0),
    EraseTransform(p=1.0),
    MosaicTransform(p=1.0),
    MixUpTransform(p=1.0),
    CopyPasteTransform(p=1.0),
]
FIRST = [0, 1, 2] * 5 + [0]  # RGB channel that is repeated as channel 0, 1, 2, ...


def with_channels(sample, channels):
    return sample._replace(image=sample.image[FIRST[:channels]])


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("entry", ANY_CHANNELS, ids=lambda entry: entry.type)
def test_channels_are_transformed_like_those_of_an_rgb_image(entry, channels):
    """torchvision resizes uint8 images of up to four channels with other kernels, whose rounding differs by a level."""
    fill = [FILL[channel] for channel in FIRST[:channels]]
    samples = [noise_sample(seed) for seed in range(5)]
    for seed in range(5):
        rgb = apply(build_transform(entry, FILL), samples[0], partners=partners_of(*samples[1:]), seed=seed)
        some = [with_channels(sample, channels) for sample in samples]
        result = apply(build_transform(entry, fill), some[0], partners=partners_of(*some[1:]), seed=seed)
        assert torch.equal(result.boxes, rgb.boxes) and result.image.shape[0] == channels
        difference = (result.image.int() - rgb.image[FIRST[:channels]].int()).abs()
        assert difference.max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 16])
@pytest.mark.parametrize(
    ("old", "new"), [((40, 60), (1, 1)), ((60, 1), (30, 1)), ((40, 60), (9, 1)), ((40, 60), (1, 7)), ((1, 1), (5, 5))]
)
def test_resize_to_tiny_sizes(channels, old, new):
    """Compared with float32, which torch resizes correctly; uint8 images of width 1 it does not."""
    pixels = torch.randint(256, (channels, *old), dtype=torch.uint8)
    sample = noise_sample(0)._replace(image=pixels)
    expected = v2.functional.resize(pixels.float(), list(new), antialias=True)
    assert (resize(sample, *new).image.float() - expected).abs().max() <= 1


def test_brightness_and_contrast_by_hand():
    """A factor of 1.5 for brightness: values times 1.5. For contrast: distances from each channel's mean times 1.5."""
    image = torch.tensor([[[10, 30]], [[100, 200]]], dtype=torch.uint8)  # means 20 and 150
    sample = noise_sample(0)._replace(image=image)
    seen = {"brightness": set(), "contrast": set()}
    for seed in range(40):
        for name, transform in (
            ("brightness", BrightnessContrast(0.5, 0.0)),
            ("contrast", BrightnessContrast(0.0, 0.5)),
        ):
            result = apply(transform, sample, seed=seed).image.flatten().tolist()
            seen[name].add(tuple(result))
            if name == "brightness":
                factor = result[1] / 30
                expected = [10 * factor, 30 * factor, 100 * factor, min(255, 200 * factor)]
            else:
                factor = (result[1] - 20) / 10
                expected = [20 - 10 * factor, 20 + 10 * factor, 150 - 50 * factor, 150 + 50 * factor]
            assert result == pytest.approx(expected, abs=4)  # the factor is known to half a level of 10 to 30
            assert 0.45 <= factor <= 1.55
    assert all(len(results) > 20 for results in seen.values())
    assert torch.equal(image, torch.tensor([[[10, 30]], [[100, 200]]], dtype=torch.uint8))


def test_color_without_saturation_and_hue():
    color = ColorTransform(saturation=0.0)
    assert isinstance(build_transform(color, (0,) * 4), BrightnessContrast)
    assert not isinstance(build_transform(color, FILL), BrightnessContrast)


def test_torchvision_transform_keeps_the_channels():
    sample = with_channels(noise_sample(0), 4)
    result = apply(TorchvisionTransform(v2.RandomHorizontalFlip(1.0)), sample, seed=0)
    assert torch.equal(result.image, sample.image.flip(-1))
    with pytest.raises(ValueError, match=r"expected torch.uint8 \(4, H, W\)"):
        apply(TorchvisionTransform(v2.Lambda(lambda item: item[:3] if item.ndim == 3 else item)), sample, seed=0)
