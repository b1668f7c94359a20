"""Processes that exit or are killed while they write checkpoints."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

import pytest
import torch

from retinanet.checkpoint.file import read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.save import store_thresholds
from retinanet.checkpoint.writer import CheckpointWriter
from tests.helpers.checkpoints import GatedFolder, cut_off, filled, flip_a_bit, forbid_symlinks, names, step_files
from tests.helpers.processes import ENVIRONMENT, REPO, Program

WRITER = """
import sys, torch
from pathlib import Path
from retinanet.checkpoint.folder import CheckpointFolder
from tests.helpers.checkpoints import checkpoint_of
folder = CheckpointFolder(Path(sys.argv[1]), keep=2)
step = 0
while True:
    step += 1
    for _ in range(int(sys.argv[2])):
        folder.save(checkpoint_of(step, model={"weight": torch.full((2_000_000,), float(step))}))
    print(step, flush=True)
"""


def steps_printed(writer: Program) -> list[int]:
    """The steps that a program has printed, one per line."""
    return [int(line) for line in writer.output().splitlines(keepends=True) if line.endswith("\n")]


def kill_after(delay: float, writer: Program) -> int:
    """Kill a program some time after it has printed its third step; return the last step that it printed."""
    deadline = time.monotonic() + 60
    while len(steps_printed(writer)) < 3:
        assert writer.poll() is None and time.monotonic() < deadline, writer.errors()
        time.sleep(0.001)
    time.sleep(delay)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    return steps_printed(writer)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.023])
def test_kill_while_writing_leaves_an_intact_last_checkpoint(tmp_path, delay, times):
    """Also if each step is saved several times."""
    written = kill_after(delay, Program(WRITER, [str(tmp_path), str(times)]))
    last = read_checkpoint(tmp_path / "last.pt")
    assert last.step >= written
    assert torch.equal(last.state["model"]["weight"], torch.full((2_000_000,), float(last.step)))
    path, newest = CheckpointFolder(tmp_path, keep=2).last_intact()
    assert path == max(tmp_path.glob("step_????????.pt"))  # no damaged checkpoint was skipped
    assert newest.step >= last.step


def killed_after(changes: int, action: Callable[[], None]) -> bool:
    """Run an action in a child process that kills itself after `changes` disk changes; return whether it was killed."""
    child = os.fork()
    if child == 0:

        def killing(function: Callable) -> Callable:
            def call(*arguments, **keywords):
                nonlocal changes
                result = function(*arguments, **keywords)
                changes -= 1
                if changes == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in ("replace", "rename", "fsync", "unlink", "symlink"):
            setattr(os, name, killing(getattr(os, name)))
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("has_symlinks", [True, False], ids=["symbolic links", "no symbolic links"])
@pytest.mark.parametrize("step", [1, 2], ids=["same step again", "next step"])
def test_kill_between_any_two_changes_on_disk_leaves_intact_checkpoints(tmp_path, step, has_symlinks, monkeypatch):
    if not has_symlinks:
        forbid_symlinks(monkeypatch)
    for changes in itertools.count(1):
        path = tmp_path / str(changes)
        folder = CheckpointFolder(path, keep=1)
        folder.save(filled(1))
        folder.mark_best(1)
        killed = killed_after(changes, lambda folder=folder: folder.mark_best(folder.save(filled(step, 2.0)) and step))
        for link in ("last.pt", "best.pt"):
            assert read_checkpoint(path / link).state["model"]["weight"][0] in (1.0, 2.0)
        assert folder.last_intact()[0] == folder.files()[-1]
        assert not list(path.glob("*.damaged"))
        # The next run continues normally.
        folder.open_for_writing()
        folder.save(filled(3))
        folder.mark_best(3)
        assert names(path) == ["best.pt", "last.pt", *step_files(3)]
        if not killed:
            break
    assert changes > 10


def test_kill_while_thresholds_are_stored_loses_nothing(tmp_path):
    for changes in itertools.count(1):
        path = tmp_path / str(changes)
        folder = CheckpointFolder(path, keep=1)
        folder.save(filled(1))
        folder.mark_best(1)
        killed = killed_after(changes, lambda path=path: store_thresholds(path / "best.pt", [0.25, 0.5]))
        best = read_checkpoint(path / "best.pt")
        assert best.thresholds in (None, (0.25, 0.5)) and best.state["model"]["weight"][0] == 1
        folder.open_for_writing()
        assert set(names(path)) <= {"best.pt", "last.pt", *step_files(1)}  # the checksum file may be missing
        if not killed:
            break
    assert best.thresholds == (0.25, 0.5) and names(path) == ["best.pt", "last.pt", *step_files(1)]
    assert changes > 5


def test_kill_while_damaged_checkpoints_are_renamed_loses_nothing(tmp_path):
    for changes in itertools.count(1):
        path = tmp_path / str(changes)
        folder = CheckpointFolder(path, keep=3)
        for step in (1, 2, 3):
            folder.save(filled(step))
        folder.mark_best(3)
        cut_off(path / "step_00000003.pt")
        flip_a_bit(path / "step_00000002.pt")
        killed = killed_after(changes, lambda folder=folder: folder.last_intact())
        assert folder.last_intact()[0].name == "step_00000001.pt"
        assert os.readlink(path / "last.pt") == "step_00000001.pt"
        assert {"step_00000002.pt.damaged", "step_00000003.pt.damaged"} <= set(names(path))
        assert not (path / "best.pt").is_symlink()
        if not killed:
            break
    assert changes > 6


START = """
import sys, torch
from pathlib import Path
from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter
from retinanet.config import Config, TrainConfig

def checkpoint_of(step, **state):
    return Checkpoint(Config(train=TrainConfig(steps=1)), ("cat",), (1,), step, state)

writer = CheckpointWriter(CheckpointFolder(Path(sys.argv[1]), keep=2))
"""


# A shell starts background processes with SIGINT ignored, which their children inherit.
CTRL_C = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "codes"),
    [
        ("raise RuntimeError('the loop failed')", [1]),
        ("sys.exit(3)", [3]),
        # Python forgets that Ctrl-C ended it if an exit handler evaluates text, as torch's does with some packages.
        (CTRL_C, [-signal.SIGINT, 1]),
        ("pass", [0]),
    ],
    ids=["exception", "exit", "Ctrl-C", "end"],
)
def test_exiting_process_finishes_its_write(tmp_path, end, codes):
    program = START + "writer.save(checkpoint_of(1, weight=torch.ones(20_000_000))); writer.mark_best(1)\n" + end
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, **ENVIRONMENT},
        cwd=REPO,
        timeout=120,
        stderr=subprocess.PIPE,
    )
    assert child.returncode in codes, child.stderr
    assert child.stderr.endswith(b"KeyboardInterrupt\n") == (end is CTRL_C)
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(1)]
    assert read_checkpoint(tmp_path / "best.pt").state["weight"].sum() == 20_000_000


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_worker_forked_during_a_write_exits(tmp_path):
    folder = GatedFolder(tmp_path)
    with CheckpointWriter(folder) as writer:
        writer.save(filled(1))
        assert folder.reached.wait(timeout=60)
        worker = multiprocessing.get_context("fork").Process(target=int)
        worker.start()
        worker.join(timeout=60)
        assert worker.exitcode == 0
        folder.gate.set()
    assert names(tmp_path) == ["last.pt", *step_files(1)]


KILLED = (
    START
    + """
class Printing(CheckpointFolder):
    def save(self, checkpoint):
        super().save(checkpoint)
        print(checkpoint.step, flush=True)

writer.folder = Printing(Path(sys.argv[1]), keep=2)
step, size = 0, 2_000_000
while True:
    step += 1
    writer.save(checkpoint_of(step, weight=torch.full((size,), float(step))))
    if step % 2:
        writer.mark_best(step)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_kill_during_a_background_write_leaves_intact_checkpoints(tmp_path, seed):
    written = kill_after(random.Random(seed).uniform(0, 0.15), Program(KILLED, [str(tmp_path)]))
    folder = CheckpointFolder(tmp_path, keep=2)
    for path in (tmp_path / "last.pt", tmp_path / "best.pt", *folder.files()):
        read = read_checkpoint(path)
        assert torch.equal(read.state["weight"], torch.full((2_000_000,), float(read.step)))
    path, read = folder.last_intact()
    assert path == folder.files()[-1]  # no damaged checkpoint was skipped
    assert read.step >= written
    with CheckpointWriter(folder) as again:
        assert not list(tmp_path.glob("*.partial"))
        again.save(read._replace(step=read.step + 1))
    assert folder.files()[-1].name == f"step_{read.step + 1:08d}.pt"
