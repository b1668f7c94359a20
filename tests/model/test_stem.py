"""The first convolution of RGB weights, adapted to other numbers of channels."""

import pytest
import torch
import torch.nn.functional as F

from retinanet.config.model import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, ResNetConfig
from retinanet.model.resnet import ResNet
from retinanet.model.retinanet import build_model
from retinanet.model.stem import adapt_stem

RGB = torch.tensor([2.0, 4.0, 6.0]).view(1, 3, 1, 1)  # one filter of one pixel


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, [12]),
        (2, [6, 6]),
        (3, [2, 4, 6]),
        (4, [1, 4, 6, 1]),  # red is shared by two channels
        (5, [1, 2, 6, 1, 2]),
        (6, [1, 2, 3, 1, 2, 3]),
        (7, [2 / 3, 2, 3, 2 / 3, 2, 3, 2 / 3]),
    ],
)
def test_worked_example(channels, expected):
    torch.testing.assert_close(adapt_stem(RGB, channels).flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("channels", range(1, 17))
def test_response_to_a_grey_image_is_kept(channels):
    torch.manual_seed(channels)
    weight, grey = torch.randn(8, 3, 7, 7).double(), torch.randn(2, 1, 30, 40).double()
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), weight, stride=2, padding=3)
    adapted = F.conv2d(grey.expand(-1, channels, -1, -1), adapt_stem(weight, channels), stride=2, padding=3)
    torch.testing.assert_close(adapted, expected)


@pytest.mark.parametrize("channels", [1, 3, 6, 9, 12, 15])
def test_equals_timm_for_one_channel_and_multiples_of_three(channels):
    adapt = pytest.importorskip("timm.models", reason="compares with timm").adapt_input_conv
    weight = torch.randn(8, 3, 7, 7)
    torch.testing.assert_close(adapt_stem(weight, channels), adapt(channels, weight))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_pretrained_backbone_computes_the_same_from_a_grey_image(channels, imagenet_file):
    rgb = ResNet("resnet18", norm="frozen", frozen_stages=0)
    other = ResNet("resnet18", norm="frozen", frozen_stages=0, in_channels=channels)
    for backbone in (rgb, other):
        backbone.load_pretrained(str(imagenet_file))
        backbone.eval()
    grey = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        expected = rgb(grey.expand(-1, 3, -1, -1))
        found = other(grey.expand(-1, channels, -1, -1))
    for level, same in zip(found, expected, strict=True):
        torch.testing.assert_close(level, same, rtol=1e-4, atol=1e-4)


def test_grey_detector_equals_the_rgb_detector_on_a_repeated_image(imagenet_file):
    """The whole network, from uint8 images, with the same mean and standard deviation for every channel."""
    outputs = []
    image = torch.randint(256, (1, 1, 64, 64), dtype=torch.uint8)
    for channels in (1, 3):
        torch.manual_seed(0)
        backbone = ResNetConfig(name="resnet18", weights=str(imagenet_file), frozen_stages=0)
        cfg = ModelConfig(
            backbone=backbone, channels=8, in_channels=channels, mean=(120.0,) * channels, std=(60.0,) * channels
        )
        model = build_model(cfg, 2).eval()
        model.backbone.load_pretrained(backbone.weights)
        head = torch.Generator().manual_seed(1)
        for name, weight in model.named_parameters():
            if not name.startswith("backbone."):
                weight.data = 0.05 * torch.randn(weight.shape, generator=head)
        with torch.no_grad():
            outputs.append(model(image.expand(-1, channels, -1, -1), torch.tensor([[64, 64]])))
    for grey, rgb in zip(outputs[0].class_logits, outputs[1].class_logits, strict=True):
        torch.testing.assert_close(grey, rgb, rtol=1e-4, atol=1e-4)


def test_rgb_network_is_unchanged():
    """The same random numbers are drawn whether or not the number of channels is given."""
    torch.manual_seed(0)
    default = ResNet("resnet10_half", norm="batch", frozen_stages=0)
    torch.manual_seed(0)
    given = ResNet("resnet10_half", norm="batch", frozen_stages=0, in_channels=3)
    for name, value in default.state_dict().items():
        assert torch.equal(value, given.state_dict()[name]), name
    cfg = ModelConfig()
    assert (cfg.mean, cfg.std) == (IMAGENET_MEAN, IMAGENET_STD)
