"""Complete runs with batch norm in which one image produces NaN."""

import math

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.cli.train import main
from retinanet.config.load import load_config
from retinanet.data.build import build_train_sampler, load_train_data
from retinanet.data.reader import SampleReader
from retinanet.engine.train import train
from retinanet.errors import InputError
from retinanet.model.retinanet import RetinaNet


@pytest.fixture
def cfg(tiny_overrides):
    def load(*overrides: str):
        return load_config("quickstart", [*tiny_overrides, "train.ema_decay=0.9", *overrides])

    return load


@pytest.fixture
def poisoned(cfg, monkeypatch):
    """Make one image in a step's batch white, and make white images produce NaN in the network."""

    def plant(step: int):
        data = load_train_data(cfg())
        sampler = build_train_sampler(cfg(), data)
        for _ in range(step):
            batch = next(sampler)
        index = batch[1].index
        read, normalise = SampleReader.read, RetinaNet.normalise

        def read_white(self, number):
            example = read(self, number)
            return example._replace(image=torch.full_like(example.image, 255)) if number == index else example

        def normalise_white(self, images, image_sizes):
            white = (images[:, :, :8, :8] == 255).flatten(1).all(dim=1)
            return torch.where(white[:, None, None, None], torch.nan, normalise(self, images, image_sizes))

        monkeypatch.setattr(SampleReader, "read", read_white)
        monkeypatch.setattr(RetinaNet, "normalise", normalise_white)
        return data.image(index).image_id

    return plant


def test_nan_in_the_first_step_stops_the_run_and_names_the_image(cfg, poisoned, tmp_path, capsys):
    image_id = poisoned(1)
    with pytest.raises(InputError, match=r"step 1: training diverged") as stopped:
        train(cfg(), tmp_path / "run")
    assert f"Caused by {image_id}: check these images" in str(stopped.value)
    file = tmp_path / "run/nonfinite_step_00000001.pt"
    assert str(file) in str(stopped.value)
    assert not list((tmp_path / "run/checkpoints").glob("step*.pt"))  # no checkpoint was saved afterwards
    saved = torch.load(file, weights_only=True)
    assert all(value.isfinite().all() for value in saved["model"].values())
    statistics = {name: value for name, value in saved["model"].items() if name.endswith("running_mean")}
    assert statistics and not any(value.any() for value in statistics.values())  # initial values
    capsys.readouterr()
    assert main(["--replay", str(file)]) == 0
    assert f"Caused by {image_id}: check these images" in capsys.readouterr().out


def test_steps_after_nan_change_nothing_before_the_guard_is_read(cfg, poisoned, tmp_path):
    """Step 3 produces NaN. The guard is read after step 4, and the saved step has the weights from after step 2."""
    overrides = ["train.schedule={type: steps, milestones: []}", "data.val=[]"]
    before = train(cfg(*overrides, "train.steps=2"), tmp_path / "before")
    poisoned(3)
    with pytest.raises(InputError, match=r"step 3: training diverged"):
        train(cfg(*overrides), tmp_path / "run")
    saved = torch.load(tmp_path / "run/nonfinite_step_00000003.pt", weights_only=True)["model"]
    for name, value in read_checkpoint(before.folder / "checkpoints/last.pt").weights(average=False).items():
        assert torch.equal(saved[name], value), name


def test_skip_continues_with_finite_weights_and_counts_steps(cfg, poisoned, tmp_path):
    poisoned(3)
    result = train(cfg("train.on_nonfinite=skip", "train.steps=4"), tmp_path / "run")
    assert result.step == 4 and math.isfinite(result.metrics["loss"])
    content = read_checkpoint(result.folder / "checkpoints/last.pt")
    assert content.state["guard"]["skipped"] >= 1
    for state in (content.weights(average=False), content.weights()):
        assert all(value.isfinite().all() for value in state.values())
    assert "step 3: the gradient was not finite" in (result.folder / "log.txt").read_text()


def test_run_stops_after_max_skipped_steps(cfg, poisoned, tmp_path):
    poisoned(1)
    with pytest.raises(InputError, match=r"diverged.*more than train.max_skipped"):
        overrides = ["train.on_nonfinite=skip", "train.max_skipped=1", "train.steps=40", "data.val=[]"]
        train(cfg(*overrides), tmp_path / "run")
