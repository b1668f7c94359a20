"""The summary logged before the first step."""

import re

import pytest
import torch

from retinanet.config.load import load_config
from retinanet.engine import summary as module
from retinanet.engine.forecast import Forecast
from retinanet.engine.run_folder import claim_folder
from retinanet.engine.setup import set_up_run
from retinanet.engine.summary import announce, run_summary
from retinanet.engine.train import train


@pytest.fixture
def run(tmp_path, tiny_overrides):
    cfg = load_config("quickstart", [*tiny_overrides, "train.save_every=3", "train.keep_checkpoints=5"])
    folder = tmp_path / "run"
    with claim_folder(folder):
        yield set_up_run(cfg, folder, torch.device("cpu"), resume=False, overwrite=False, profile=False)


def test_summary_describes_length_evaluations_and_checkpoints(run):
    """Eight steps of four images are 1.33 epochs of 24 images; there are evaluations after steps 4 and 8."""
    shares = {(64, 64): 0.25, (48, 64): 0.75}
    rows = run_summary(run, shares)
    assert rows["data"].startswith("24 images")
    assert rows["padded shapes"].startswith("48x64, 64x64 (")
    assert rows["length"] == "8 steps of 4 images, 1.33 epochs"
    assert rows["evaluation"] == "8 images, every 4 steps (2 evaluation(s))"
    assert re.fullmatch(r"every 3 steps, \d+ MB each, of which the best and the last 5 are kept", rows["checkpoints"])
    assert run_summary(run._replace(val_data=None), shares)["evaluation"] == "none: data.val is empty"


@pytest.mark.parametrize(
    ("num_steps", "every", "step", "left"),
    [(8, 4, 0, 2), (8, 4, 3, 2), (8, 4, 4, 2), (8, 4, 5, 1), (8, 4, 8, 1), (9, 4, 0, 3), (9, 4, 9, 1), (3, 4, 0, 1)],
)
def test_number_of_evaluations_left_includes_one_at_the_current_step(run, num_steps, every, step, left):
    run.state.step = step
    changed = run._replace(num_steps=num_steps, eval_every=every)
    assert changed.evaluations_left == left
    due = [number for number in range(max(step, 1), num_steps + 1) if number % every == 0 or number == num_steps]
    assert len(due) == left


@pytest.mark.parametrize(("hours", "is_warned"), [(5.9, False), (6.1, True)])
def test_long_run_on_a_cpu_causes_a_warning_that_suggests_a_config(run, monkeypatch, caplog, hours, is_warned):
    caplog.set_level("INFO", logger="retinanet")
    monkeypatch.setattr(module, "forecast", lambda *arguments: Forecast(3600 * hours, (800, 1344)))
    monkeypatch.setattr(module, "fitting_config", lambda *arguments: "quickstart (small)")
    announce(run)
    text = caplog.text
    assert "h 6 min for 8 steps, forecast from one forward pass" in text or "h 54 min for 8 steps" in text
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == is_warned
    if is_warned:
        assert "roughly 6 h 6 min: 8 steps of 4 images padded to about 800x1344 pixels. Use a GPU" in warnings[0]
        assert warnings[0].endswith("start from a config made for a CPU: quickstart (small)")


def test_accelerator_gets_no_forecast(run, caplog, monkeypatch):
    monkeypatch.setattr(module, "forecast", lambda *arguments: 1 / 0)
    announce(run._replace(device=torch.device("meta")))


@pytest.mark.parametrize(
    "override",
    [
        "train.optimizer={type: sgd}",
        "train.optimizer={type: sgd, momentum: 0.0}",
        "train.optimizer={type: adamw}",
        "train.ema_decay=0.99",
    ],
)
def test_stated_checkpoint_size_is_the_size_of_the_file(tmp_path, tiny_overrides, override):
    cfg = load_config("quickstart", [*tiny_overrides, "train.steps=1", "data.val=[]", override])
    folder = train(cfg, tmp_path / "run").folder
    stated = float(re.search(r"every 4 steps, ([\d.]+) MB each", (folder / "log.txt").read_text())[1])
    assert stated == pytest.approx((folder / "checkpoints/step_00000001.pt").stat().st_size / 1e6, abs=1)
