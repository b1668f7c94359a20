"""Run the files of docs/extending.md as a user would, next to the package."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retinanet.checkpoint.file import read_checkpoint
from tests.helpers.markdown import blocks_in
from tests.helpers.metrics import metrics_without_times
from tests.helpers.processes import Program

REPO = Path(__file__).parent.parent
FILES = {
    found[1]: block.text
    for block in blocks_in(REPO / "docs" / "extending.md")
    if block.language == "python" and (found := re.match(r"# (\w+)\.py\n", block.text))
}
EXAMPLES = [name for name in FILES if name != "settings"]

# Train without a pause, then again to step 2 and, in another call, from there.
RESUMED = """
import sys
sys.path.insert(0, ".")
import retinanet
example = __import__(sys.argv[1])
from settings import DATA, load_settings
data = [] if "dataset" in example.parts() else DATA
cfg = load_settings(*data, getattr(example, "SIZES", "train.seed=0"), "train.deterministic=true", "data.workers=0")
retinanet.train(cfg, "straight", **example.parts())

class Stop(retinanet.Callback):
    def on_log(self, step, metrics):
        if step == 3:
            import os, pathlib, signal, time
            while not pathlib.Path("killed/checkpoints/last.pt").exists():  # a thread writes that of step 2
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "kill":
    parts = example.parts()
    retinanet.train(cfg, "killed", **parts | {"callbacks": [*parts.get("callbacks", ()), Stop()]})
retinanet.train(cfg, "killed", **example.parts(), resume=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the guide and their images."""
    folder = tmp_path_factory.mktemp("guide")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    run_script(folder, "settings.py")
    return folder


def run_script(folder: Path, name: str) -> str:
    """Run a script in its own interpreter, which its worker processes import again, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_without_workers(folder: Path, code: str, *arguments: str, exit_code: int = 0) -> None:
    """Run a program that starts no worker processes."""
    program = Program(code, arguments, folder=folder)
    assert program.wait(timeout=600) == exit_code, program.output() + program.errors()


def test_guide_has_an_example_of_every_part():
    assert set(EXAMPLES) == {"sqlite_data", "poly_loss", "convnext_backbone", "iou_branch", "callback"}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_trains_evaluates_and_predicts(name, folder):
    output = run_script(folder, f"{name}.py")
    if name == "callback":
        assert "step 4: AP " in output
    else:
        assert "Detections(" in output and f"{name}." in output


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "callback"])
def test_killed_run_with_the_example_resumes_bit_for_bit(name, folder, tmp_path):
    for file in ("shapes", *(f"{each}.py" for each in FILES)):
        (tmp_path / file).symlink_to(folder / file)
    run_without_workers(tmp_path, RESUMED, name, "kill", exit_code=-signal.SIGKILL)
    assert not (tmp_path / "killed/checkpoints/step_00000004.pt").exists()
    run_without_workers(tmp_path, RESUMED.replace('retinanet.train(cfg, "straight"', "#"), name, "resume")
    straight, killed = (read_checkpoint(tmp_path / run / "checkpoints/last.pt") for run in ("straight", "killed"))
    assert (
        straight.step == killed.step == 4 and straight.config.custom.described == killed.config.custom.described != ()
    )
    for key, value in straight.weights().items():
        assert value.equal(killed.weights()[key]), key
    assert metrics_without_times(tmp_path / "killed") == metrics_without_times(tmp_path / "straight")
