"""Dry runs: checks, measurements and the report."""

import json
import re

import pytest

from retinanet.cli.train import main
from retinanet.engine.dry_run import DryRun
from retinanet.runtime.stop import StopRequest

MEASURED = DryRun(
    steps=1000,
    step_seconds=3.6,
    measured_steps=3,
    evaluations=2,
    images=500,
    image_seconds=1.8,
    measured_images=16,
    memory=1_234_000_000,
    checkpoint_bytes=292_000_000,
    kept="of which some are kept",
)


def test_description_by_hand():
    """1000 steps of 3.6 s take an hour, and each evaluation takes 500 * 1.8 s = 15 minutes."""
    assert MEASURED.describe() == (
        "  steps          1000 x 3.6 s: 1 h (median of 3 steps)\n"
        "  evaluations    2 x 500 images, 15 min each (timed on 16 images)\n"
        "  total          1 h 30 min on this machine\n"
        "  peak memory    1.2 GB so far, in one process\n"
        "  checkpoints    292 MB each, of which some are kept"
    )
    without = MEASURED._replace(evaluations=0, memory=None).describe()
    assert "evaluations    none\n  total          1 h on" in without and "peak memory    unknown" in without


def test_dry_run_describes_the_full_run_and_saves_nothing(tiny_overrides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--dry-run", *tiny_overrides, "train.steps=1000000", "train.eval_every=999999"]) == 0
    printed = capsys.readouterr().out
    assert "length         1000000 steps of 4 images" in printed
    assert "step 5 of 1000000: loss" in printed and "step 5: AP " in printed
    assert re.search(r"^  steps          1000000 x .* \(median of 3 steps\)$", printed, re.MULTILINE)
    assert re.search(r"^  evaluations    2 x 8 images, .* each \(timed on 8 images\)$", printed, re.MULTILINE)
    assert re.search(r"^  total          \d.* on this machine$", printed, re.MULTILINE)
    assert re.search(r"^  peak memory    [\d.]+ [MG]B so far", printed, re.MULTILINE)
    assert re.search(r"^  checkpoints    \d+ MB each", printed, re.MULTILINE)
    assert "nothing was saved" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["train.steps=1", "data.val=[]"])
def test_dry_run_of_a_short_run_or_without_validation(tiny_overrides, tmp_path, monkeypatch, capsys, override):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--dry-run", *tiny_overrides, override]) == 0
    printed = capsys.readouterr().out
    assert ("(median of 1 steps)" in printed) == (override == "train.steps=1")
    assert ("evaluations    none" in printed) == (override == "data.val=[]")


def test_stopped_dry_run_reports_no_measurements(tiny_overrides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StopRequest, "due", lambda self, step: step == 2)
    assert main(["quickstart", "--dry-run", *tiny_overrides]) == 143
    assert "peak memory" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_dry_run_detects_an_error_in_the_first_evaluation(tiny_overrides, tmp_path, shapes, capsys):
    """The annotation file refers to a missing image."""
    truth = json.loads((shapes / "val.json").read_text())
    truth["images"][0]["file_name"] = "missing.png"
    (tmp_path / "val.json").write_text(json.dumps(truth))
    overrides = [*tiny_overrides, f"data.val.annotations={tmp_path / 'val.json'}"]
    assert main(["quickstart", "--dry-run", *overrides]) == 2
    assert "missing.png" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--resume", "--overwrite", "--profile", "--output=here"])
def test_dry_run_refuses_options_of_a_run_folder(tiny_overrides, option, capsys):
    assert main(["quickstart", "--dry-run", option, *tiny_overrides]) == 2
    assert "--dry-run saves nothing" in capsys.readouterr().err
