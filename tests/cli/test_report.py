"""The command `retinanet report` on run folders."""

import json

import pytest

from retinanet.__main__ import main
from retinanet.engine.run_files import MARKER


@pytest.fixture
def run_folder(tmp_path):
    def write(name: str, ap: float, seed: int = 0):
        folder = tmp_path / name
        folder.mkdir()
        (folder / MARKER).write_text("{}")
        (folder / "config.yaml").write_text(f"train: {{seed: {seed}, a_key_of_another_version: 1}}\n")
        (folder / "metrics.jsonl").write_text(json.dumps({"kind": "eval", "step": 5, "AP": ap}) + '\n{"kind": "tra')
        return str(folder)

    return write


def test_runs_are_compared_on_stdout_and_on_a_page(run_folder, tmp_path, capsys):
    runs, page = [run_folder("a", 0.3), run_folder("b", 0.5, seed=1)], tmp_path / "runs.html"
    again = [f"{runs[0]}/config.yaml", f"{runs[1]}/../b"]  # a run named twice counts once
    assert main(["report", *runs, *again, "--output", str(page)]) == 0
    out = capsys.readouterr().out
    assert "| 0.400 ± 0.141 |" in out and "| train.seed | 0 | 1 |" in out
    assert "2 runs compared" in page.read_text()


def test_json_is_all_that_is_printed(run_folder, capsys):
    assert main(["report", run_folder("a", 0.3), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["final"]["AP"] == 0.3


def test_other_files_are_not_overwritten(run_folder, tmp_path, capsys):
    notes = tmp_path / "notes.html"
    notes.write_text("<html>my own")
    assert main(["report", run_folder("a", 0.3), "--output", str(notes)]) == 2
    assert "was not written by retinanet report; choose another --output" in capsys.readouterr().err
    assert notes.read_text() == "<html>my own"


def test_folder_that_is_not_a_run_is_reported(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err
