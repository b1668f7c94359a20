"""Keys that must agree with `model.in_channels`."""

import pytest

from retinanet.config.load import load_config
from retinanet.config.model import ModelConfig
from retinanet.errors import InputError

FOUR = ["model.in_channels=4", "model.mean=[1, 2, 3, 4]", "model.std=[1, 2, 3, 4]"]


def load(*overrides):
    return load_config("quickstart", ["data.transforms=[{type: resize}]", *overrides])


def test_other_numbers_of_channels_load_with_their_statistics():
    cfg = load(*FOUR, "data.bands=[4, 3, 2, 1]", "data.value_range=[[0, 1], [0, 2], [0, 3], [-1, 4]]")
    assert cfg.model.mean == (1, 2, 3, 4) and cfg.model.has_statistics
    assert cfg.data.value_range == ((0, 1), (0, 2), (0, 3), (-1, 4))
    assert load("data.value_range=[[0, 7]]").data.value_range == (0, 7)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.in_channels=4", "model.mean=[1, 2, 3, 4]"], "in_channels is 4 and std has 3 value"),
        (["model.mean=[1]"], "in_channels is 3 and mean has 1 value"),
        (["model.in_channels=0"], "greater than or equal to 1"),
        (["model.in_channels=17"], "less than or equal to 16"),
        ([*FOUR, "data.bands=[1, 2, 3]"], r"data\.bands selects 3 band\(s\) and model\.in_channels is 4"),
        ([*FOUR, "data.bands=2"], r"data\.bands selects 1 band\(s\) and model\.in_channels is 4"),
        (["data.bands=[1, 2]"], "select as many bands as channels or one band"),
        ([*FOUR, "data.value_range=[[0, 1], [0, 2]]"], "2 ranges and model.in_channels is 4"),
        ([*FOUR, "data.value_range=[[0, 1], [2, 1], [0, 1], [0, 1]]"], "with low below high"),
        (
            [*FOUR, "data.transforms=[{type: resize}, {type: photometric}]"],
            r"data\.transforms\[1\], photometric, is only for RGB.*it changes saturation, hue and the order",
        ),
        (
            ["model.in_channels=1", "data.transforms=[{type: color, hue: 0.1}, {type: resize}]"],
            r"data\.transforms\[0\], color, .*it changes saturation and hue; set saturation: 0 and hue: 0",
        ),
        (["data.band_files=['{stem}.png']"], "at least one more"),
    ],
)
def test_contradictions(overrides, words):
    with pytest.raises(InputError, match=words):
        load(*overrides)


def test_missing_statistics_are_an_error_that_names_the_command():
    cfg = load("model.in_channels=6")  # `retinanet check` needs such a config
    assert not cfg.model.has_statistics
    with pytest.raises(InputError, match=r"`retinanet check DATA model\.in_channels=6` computes them"):
        cfg.model.require_statistics()


def test_imagenet_statistics_are_only_for_three_channels():
    assert ModelConfig().has_statistics and not ModelConfig(in_channels=1).has_statistics
    ModelConfig().require_statistics()
