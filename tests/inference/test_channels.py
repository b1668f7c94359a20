"""Prediction on images that do not have three channels."""

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.config.load import with_overrides
from retinanet.errors import InputError
from retinanet.inference.predictor import Predictor
from retinanet.model.retinanet import build_model
from tests.helpers.checkpoints import overdetecting_config


def predictor_for(channels):
    overrides = [f"model.in_channels={channels}", f"model.mean={[60.0] * channels}", f"model.std={[30.0] * channels}"]
    overrides.append("data.transforms=[{type: resize}]")
    cfg = with_overrides(overdetecting_config(), overrides, "test")
    torch.manual_seed(0)
    return Predictor(build_model(cfg.model, 3), ["one", "two", "three"], [1, 2, 3], cfg)


def test_grey_images_of_every_type_give_the_same_detections(tmp_path):
    predictor = predictor_for(1)
    grey = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "image.png")
    expected = predictor(torch.from_numpy(grey)[None])
    assert len(expected)
    for image in (tmp_path / "image.png", Image.fromarray(grey), grey[..., None]):
        found = predictor(image)
        assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)


def test_colour_images_are_converted_to_grey(tmp_path):
    predictor = predictor_for(1)
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    colour.save(tmp_path / "image.png")
    expected = predictor(np.asarray(colour.convert("L"))[..., None])
    for image in (tmp_path / "image.png", colour):
        assert torch.equal(predictor(image).scores, expected.scores)


@pytest.mark.parametrize(
    ("channels", "image", "message"),
    [
        (1, np.zeros((9, 9), np.uint8), "image is an array of uint8 (9, 9), expected uint8 (H, W, 1)"),
        (4, np.zeros((9, 9, 3), np.uint8), "image is an array of uint8 (9, 9, 3), expected uint8 (H, W, 4)"),
        (4, np.zeros((9, 9, 4), np.uint16), "image is an array of uint16 (9, 9, 4), expected uint8 (H, W, 4)"),
        (4, torch.zeros(3, 9, 9, dtype=torch.uint8), "image is torch.uint8 (3, 9, 9), expected torch.uint8 (4, H, W)"),
        (4, Image.new("RGBA", (9, 9)), "image is a PIL image of mode RGBA, but model.in_channels is 4; pass the path"),
        (4, None, "image is NoneType, expected a path, the bytes of a file, a PIL image, a uint8 array (H, W, 4)"),
    ],
)
def test_other_shapes_are_rejected(channels, image, message):
    with pytest.raises(InputError) as error:
        predictor_for(channels)(image)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("channels", [1, 4, 16])
def test_warm_up_uses_the_number_of_channels(channels):
    predictor = predictor_for(channels)
    seen = []
    predictor.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    predictor.warm_up()
    assert set(seen) == {channels}


def test_network_rejects_other_images():
    with pytest.raises(InputError, match=r"expected torch\.uint8 \(B, 4, H, W\), in 0\.\.255"):
        predictor_for(4).model.model.normalise(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[8, 8]]))
