"""Runs in unusual environments: consoles, redirected output, file systems, and programs with their own logging."""

import io
import json
import logging
import os
import re
import subprocess
import sys

import pytest

from retinanet.checkpoint.file import read_checkpoint
from retinanet.cli.eval import main as eval_main
from retinanet.cli.train import main
from retinanet.config.load import load_config
from retinanet.engine.train import train
from tests.helpers.checkpoints import forbid_symlinks, names, step_files
from tests.helpers.processes import ENVIRONMENT, REPO

NAMES = ["方块", "мяч", "café"]


@pytest.fixture
def run(tmp_path, tiny_overrides):
    def start(name: str, *overrides: str, **arguments):
        return train(load_config("quickstart", [*tiny_overrides, *overrides]), tmp_path / name, **arguments)

    return start


@pytest.fixture
def renamed(shapes, tmp_path, tiny_overrides):
    """Overrides for the shapes dataset with class names that few encodings can represent."""
    for part in ("train", "val"):
        document = json.loads((shapes / f"{part}.json").read_text())
        for category, name in zip(document["categories"], NAMES, strict=False):
            category["name"] = name
        (tmp_path / f"{part}.json").write_text(json.dumps(document))
    return [*tiny_overrides, *(f"data.{part}.annotations={tmp_path / part}.json" for part in ("train", "val"))]


def test_class_names_that_the_console_cannot_print_stop_neither_training_nor_evaluation(renamed, tmp_path, monkeypatch):
    printed = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", printed)
    folder = tmp_path / "run"
    assert main(["quickstart", "--output", str(folder), *renamed, "train.steps=2"]) == 0
    assert eval_main([str(folder / "checkpoints/best.pt")]) == 0
    printed.flush()
    text = printed.buffer.getvalue().decode("cp1252")
    for name in (r"\u65b9\u5757", r"\u043c\u044f\u0447", "café"):
        assert text.count(name) == 2  # in the summary, and in the AP per class
    assert all(name in (folder / "log.txt").read_text(encoding="utf-8") for name in NAMES)
    assert load_config(folder / "config.yaml").train.steps == 2


@pytest.mark.slow
def test_redirected_run_writes_each_line_once_without_bars(renamed, tmp_path):
    """Run a real process with the encoding of a Windows console."""
    command = [sys.executable, "-m", "retinanet", "train", "quickstart", "--output", str(tmp_path / "run"), *renamed]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONIOENCODING": "cp1252"}
    with open(tmp_path / "out", "wb") as out:
        subprocess.run(command, env=environment, cwd=REPO, stdout=out, stderr=subprocess.STDOUT, check=True)
    text = (tmp_path / "out").read_bytes().decode("cp1252")
    assert not re.search("[\r\x1b]", text)
    lines = text.splitlines()
    assert len(set(lines)) == len(lines)
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == [
        "step 2 of 8", "step 4 of 8", "step 4", "step 6 of 8", "step 8 of 8", "step 8"
    ]  # fmt: skip


def test_best_and_last_checkpoint_work_without_symbolic_links(run, monkeypatch, caplog):
    forbid_symlinks(monkeypatch)
    overrides = ["train.keep_checkpoints=1", "train.steps=4", "train.eval_every=2"]
    assert run("run", *overrides, "train.max_hours=1e-9").step == 2
    folder = run("run", *overrides, resume=True).folder / "checkpoints"
    best, last = (read_checkpoint(folder / name).step for name in ("best.pt", "last.pt"))
    assert best in (2, 4) and last == 4
    assert names(folder) == ["best.pt", "last.pt", *step_files(*sorted({best, last}))]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_logging_handlers_of_the_calling_program_are_preserved(run):
    messages = []

    class Collecting(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler = Collecting()
    logger = logging.getLogger("retinanet")
    logger.addHandler(handler)
    try:
        run("logged", "train.steps=1", "data.val=[]")
        assert handler in logger.handlers
        assert any(message.startswith("step 1 of 1: loss") for message in messages)
    finally:
        logger.removeHandler(handler)


def test_run_whose_loss_explodes_despite_clipping_reports_divergence(tiny_overrides, tmp_path, capsys):
    overrides = [
        *(*tiny_overrides, "train.optimizer={type: sgd, lr: 1000.0}", "train.warmup_steps=0"),
        *("train.steps=12", "train.save_every=12", "data.val=[]"),
    ]
    folder = tmp_path / "run"
    assert main(["quickstart", "--output", str(folder), *overrides]) == 1
    log = (folder / "log.txt").read_text()
    assert "WARNING step 12: training has diverged: for 11 steps the loss" in log
    assert log.splitlines()[-1].split(" ", 2)[2].startswith("WARNING training diverged: the weights")
    assert capsys.readouterr().out.rstrip().endswith("or lower train.clip_norm")
    result = train(load_config("quickstart", overrides), folder, resume=True)  # the divergence is restored
    assert (result.step, result.stopped_by, result.diverged) == (12, None, True)
