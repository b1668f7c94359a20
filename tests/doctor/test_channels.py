"""Mean and standard deviation of the channels of the training images."""

import json
import math

import numpy as np
import pytest
import torch

from retinanet.cli.check import main
from retinanet.config.model import ModelConfig
from retinanet.doctor.channels import ChannelStatistics, channel_statistics, channel_sums, recommend_statistics
from tests.helpers.multiband import overrides_for, write_bands, write_pairs

FOUR = {"in_channels": 4, "mean": (50.0,) * 4, "std": (20.0,) * 4}


def test_statistics_equal_numpys_over_all_pixels():
    images = [torch.randint(256, (5, 7 + n, 9), dtype=torch.uint8) for n in range(4)]
    found = channel_statistics(map(channel_sums, images))
    pixels = np.concatenate([image.flatten(1).numpy() for image in images], axis=1).astype(np.float64)
    assert found.images == 4 and found.pixels == pixels.shape[1]
    assert found.mean == pytest.approx(pixels.mean(axis=1), rel=1e-12)
    assert found.std == pytest.approx(pixels.std(axis=1), rel=1e-12)
    assert channel_statistics(map(channel_sums, reversed(images))) == found


def test_worked_example():
    """Values 1, 2 and 6: mean 3, squared deviations 4 + 1 + 9 = 14, standard deviation sqrt(14 / 3)."""
    sums = channel_sums(torch.tensor([[[1, 2, 6]]], dtype=torch.uint8))
    assert sums == (3, (9,), (41,))
    assert channel_statistics([sums]) == (1, 3, (3.0,), (math.sqrt(42) / 3,))
    assert channel_statistics([]) is None


def statistics(mean, std, channels=4):
    return ChannelStatistics(images=7, pixels=100, mean=(mean,) * channels, std=(std,) * channels)


@pytest.mark.parametrize(
    ("mean", "std", "is_far"),
    [(50, 20, False), (69, 20, False), (71, 20, True), (29, 20, True), (50, 41, True), (50, 9, True), (50, 12, False)],
)
def test_recommended_if_far(mean, std, is_far):
    """Far: a mean more than one standard deviation (20) away, or a standard deviation beyond a factor of two."""
    result = recommend_statistics(statistics(mean, std), ModelConfig(**FOUR))
    assert ("far from" in result.sentence) == bool(result.lines) == is_far


def test_recommended_if_not_set():
    result = recommend_statistics(statistics(3.14159, 0.0), ModelConfig(in_channels=4))
    assert result.lines == ("model.mean=[3.14, 3.14, 3.14, 3.14]", "model.std=[1.00, 1.00, 1.00, 1.00]")
    assert "a channel is constant" in result.sentence


def report_of(source, channels, tmp_path, capsys, *overrides):
    given = overrides_for(source, channels, *overrides)
    unset = [override for override in given if not override.startswith(("model.mean", "model.std"))]
    assert main(["quickstart", *unset, "--json", "--page", str(tmp_path / "page.html")]) == 0
    return json.loads(capsys.readouterr().out)


def test_command_computes_what_training_needs(tmp_path, capsys):
    source = write_bands(tmp_path / "set", bands=6)
    result = report_of(source, 6, tmp_path, capsys)
    channels = result["channels"]
    assert channels["images"] == 8 and channels["pixels"] == 8 * 64 * 64
    (item,) = [item for item in result["recommendations"] if item["topic"] == "channels"]
    listed = ", ".join(f"{value:.2f}" for value in channels["mean"])
    assert item["lines"][0] == f"model.mean=[{listed}]"
    assert f"'model.mean=[{listed}]'" in result["command"]
    assert listed in (tmp_path / "page.html").read_text()
    assert channels["mean"][0] == pytest.approx(63, abs=2)  # noise from 0 to 126
    assert channels["mean"][5] > channels["mean"][0] + 20  # with the objects


def test_command_reads_several_files_per_image(tmp_path, capsys):
    source = write_pairs(tmp_path / "set")
    result = report_of(source, 4, tmp_path, capsys, 'data.band_files=["rgb/{stem}.png", "thermal/{stem}.tif"]')
    assert len(result["channels"]["mean"]) == 4
    assert [finding["kind"] for finding in result["findings"]].count("value_range") == 2  # of train and val
    (tmp_path / "set/thermal/3.tif").unlink()
    given = overrides_for(source, 4, 'data.band_files=["rgb/{stem}.png", "thermal/{stem}.tif"]')
    assert main(["quickstart", *given, "--json", "--fast", "--page", str(tmp_path / "page.html")]) == 1
    assert "1 of 8 images lack a file of data.band_files" in capsys.readouterr().out
