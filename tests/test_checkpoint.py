import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from retinanet.checkpoint import CheckpointFolder, read_checkpoint
from retinanet.errors import InputError


def content(value: float) -> dict:
    return {"model": {"weight": torch.full((1000,), value)}}


def test_what_is_saved_is_read(tmp_path):
    path = CheckpointFolder(tmp_path, keep=2).save(7, content(1.5))
    read = read_checkpoint(path)
    assert read["step"] == 7
    assert torch.equal(read["model"]["weight"], torch.full((1000,), 1.5))
    assert path.name == "step_00000007.pt"
    assert (tmp_path / "last.pt").resolve() == path


def test_the_newest_and_the_best_stay(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 6):
        folder.save(step, content(step))
        if step == 2:
            folder.mark_best(2)
    assert sorted(p.name for p in tmp_path.glob("step*.pt")) == [
        "step_00000002.pt",
        "step_00000004.pt",
        "step_00000005.pt",
    ]
    assert len(list(tmp_path.glob("*.sha256"))) == 3
    assert read_checkpoint(tmp_path / "best.pt")["step"] == 2
    assert read_checkpoint(tmp_path / "last.pt")["step"] == 5


def test_a_flipped_bit_is_noticed(tmp_path):
    path = CheckpointFolder(tmp_path, keep=2).save(1, content(1.0))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("make", ["missing", "empty", "text", "truncated", "other", "pickle"])
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path, make):
    path = tmp_path / "x.pt"
    if make == "empty":
        path.write_bytes(b"")
    elif make == "text":
        path.write_text("weights, honestly")
    elif make == "truncated":
        whole = CheckpointFolder(tmp_path / "run", keep=1).save(1, content(1.0)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif make == "other":
        torch.save({"model": {}}, path)
    elif make == "pickle":
        torch.save({"format": "retinanet checkpoint 1", "code": os.system}, path)
    with pytest.raises(InputError, match=r"x\.pt"):
        read_checkpoint(path)


WRITER = """
import sys, torch
from pathlib import Path
from retinanet.checkpoint import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), keep=2)
step = 0
while True:
    step += 1
    folder.save(step, {"model": {"weight": torch.full((2_000_000,), float(step))}})
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.023])
def test_a_kill_in_the_middle_of_writing_leaves_a_whole_last_checkpoint(tmp_path, delay):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        written = int(writer.stdout.readline())
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    last = read_checkpoint(tmp_path / "last.pt")
    assert last["step"] >= written
    assert torch.equal(last["model"]["weight"], torch.full((2_000_000,), float(last["step"])))
    path, newest = CheckpointFolder(tmp_path, keep=2).last_whole()
    assert path == max(tmp_path.glob("step_????????.pt"))  # none had to be passed over
    assert newest["step"] >= last["step"]
