"""`retinanet eval` on a run folder, and its output."""

import json
import subprocess
import sys

import pytest

from retinanet.cli.eval import main
from retinanet.cli.predict import main as predict
from tests.helpers.checkpoints import untrained_checkpoint
from tests.helpers.processes import ENVIRONMENT, REPO

pytestmark = pytest.mark.usefixtures("restore_process_settings")


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes):
    """A run folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("eval") / "run"
    untrained_checkpoint(folder / "checkpoints", shapes)
    (folder / "environment.json").write_text("{}")
    return folder


def test_run_folder_is_evaluated_and_results_are_written_to_it(run, capsys):
    assert main([str(run), "postprocess.min_score=0.001"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"checkpoint: {run / 'checkpoints' / 'last.pt'} (step_00000001.pt)\n")
    assert f"written: {run / 'evaluation.json'}, {run / 'detections.json'}\n" in printed
    assert json.loads((run / "evaluation.json").read_text())["checkpoint"] == str(run / "checkpoints" / "last.pt")


def test_scores_are_saved_before_they_are_printed(run, tmp_path, monkeypatch):
    class Unprintable(Exception):
        pass

    def stop(*texts, **options):
        raise Unprintable

    checkpoint = run / "checkpoints" / "last.pt"
    monkeypatch.setattr("builtins.print", stop)
    with pytest.raises(Unprintable):
        main([str(checkpoint), "--output", str(tmp_path / "out")])
    assert "AP" in json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (tmp_path / "out" / "detections.json").exists()


@pytest.mark.slow
def test_results_are_written_despite_a_closed_pipe(run, tmp_path):
    """For example, `retinanet eval ... | true`."""
    started = subprocess.Popen(
        [sys.executable, "-m", "retinanet", "eval", str(run), "--output", str(tmp_path / "out")],
        env=ENVIRONMENT,
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.stdout.close()
    _, errors = started.communicate(timeout=300)
    assert started.returncode == 0 and "Traceback" not in errors and "BrokenPipe" not in errors
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "detections.json"}


def test_images_are_found_in_the_best_checkpoint_of_a_run_folder(run, shapes, tmp_path, capsys):
    arguments = [str(run), str(shapes / "val"), "--limit", "1", "--output", str(tmp_path), "--set", "device=cpu"]
    assert predict([*arguments, "postprocess.max_detections=3", "postprocess.min_score=0.001"]) == 0
    assert "checkpoint: " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 3
