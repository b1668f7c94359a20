"""Forecasts of a run's duration on a CPU."""

import pytest
import torch
from torch import nn

from retinanet.config.load import load_config
from retinanet.engine import forecast as module
from retinanet.engine.forecast import Forecast, fitting_config, forecast, shape_shares
from retinanet.model.retinanet import build_model
from tests.helpers.datasets import dataset_of, image_record

CPU = torch.device("cpu")
# One of the four images is in portrait format.
DATA = dataset_of([image_record(f"{number}.png", *size) for number, size in enumerate([(48, 60)] * 3 + [(60, 48)])])
OVERRIDES = ["data.resize={shorter: [32, 64], longer: 80, bucket_aspects: [1.25], divisor: 8}", "model.channels=64"]


def test_shares_of_padded_shapes_by_hand():
    shares = shape_shares(load_config("quickstart", OVERRIDES), DATA)
    assert shares == {(32, 40): 3 / 8, (64, 80): 3 / 8, (40, 32): 1 / 8, (80, 64): 1 / 8}


class Network(nn.Module):
    """Network that records the number of images in each forward pass."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, images, image_sizes):
        assert not self.training and not torch.is_grad_enabled()
        self.passes.append(tuple(images.shape))


def test_forecast_by_hand(monkeypatch):
    """Shapes of 32 x 40, 48 x 64 and 64 x 80 pixels have 9472 / 3 pixels on average; the second is the nearest.

    The faster of two passes takes 0.5 s for four images of that shape. A step processes eight images, and takes three
    times as long per image.
    """
    times = iter([0.0, 1.5, 10.0, 10.5])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    network = Network().train()
    sizes = ["data.resize.shorter=[32, 48, 64]", "train.batch_size=8", "train.accumulate=2"]
    cfg = load_config("quickstart", [*OVERRIDES, *sizes])
    expected = forecast(cfg, network, shape_shares(cfg, DATA), 10, CPU, torch.float32)
    assert expected.shape == (48, 64)
    assert network.passes == [(4, 3, 48, 64)] * 2
    assert expected.seconds == pytest.approx(3 * 0.5 / (4 * 48 * 64) * 9472 / 3 * 8 * 10)
    assert network.training


def test_several_processes_share_the_images(monkeypatch):
    monkeypatch.setattr(module, "world_size", lambda: 4)
    times = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    network = Network()
    cfg = load_config("quickstart", [*OVERRIDES, "train.batch_size=8"])
    assert forecast(cfg, network, shape_shares(cfg, DATA), 1, CPU, torch.float32).seconds > 0
    assert network.passes[0][0] == 2  # images


def test_forecast_changes_neither_model_nor_random_numbers():
    cfg = load_config("quickstart", OVERRIDES)
    model = build_model(cfg.model, 1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert forecast(cfg, model, shape_shares(cfg, DATA), 1, CPU, torch.float32).seconds > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("hours", "name"),
    [
        ([5.0, 2.0, 1.0], "own_cpu (resnet18, shorter side 320 pixels, 12 steps of 8 images: about 5 h)"),
        ([7.0, 2.0, 1.0], "own_light (resnet10_half, shorter side 320 pixels, 12 steps of 8 images: about 2 h)"),
        ([9.0, 7.0, 1.0], "shapes_r18 (resnet18, shorter side 160 pixels, 4 steps of 4 images: about 1 h)"),
        ([99.0, 33.0, 9.0], "shapes_r18 (resnet18, shorter side 160 pixels, 4 steps of 4 images: about 9 h)"),
    ],
)
def test_fitting_config_is_the_first_that_takes_less_than_six_hours(monkeypatch, hours, name):
    """With 4 images, 24 epochs are 12 steps at batch size 8, and 3.75 epochs are 4 steps at batch size 4."""
    random = torch.get_rng_state()
    each = iter(hours)

    def told(cfg, model, data, num_steps, device, dtype):
        return Forecast(3600 * next(each), (0, 0))

    monkeypatch.setattr(module, "forecast", told)
    assert fitting_config(DATA, CPU, torch.float32) == name
    assert torch.equal(torch.get_rng_state(), random)
