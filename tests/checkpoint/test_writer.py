import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from retinanet.checkpoint.file import Checkpoint, read_checkpoint
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter, host_copy
from tests.helpers.checkpoints import checkpoint_of
from tests.processes import ENVIRONMENT, REPO


def filled(step: int, size: int = 1000) -> Checkpoint:
    """A checkpoint whose weights all have the value of the step."""
    return checkpoint_of(step, model={"weight": torch.full((size,), float(step))})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def step_files(*steps: int) -> list[str]:
    return sorted(name for step in steps for name in (f"step_{step:08d}.pt", f"step_{step:08d}.pt.sha256"))


class GatedFolder(CheckpointFolder):
    """Writes only once its gate is set."""

    def __init__(self, folder: Path, *, keep: int = 5):
        super().__init__(folder, keep=keep)
        self.reached = threading.Event()
        self.gate = threading.Event()

    def save(self, checkpoint):
        self.reached.set()
        assert self.gate.wait(timeout=60)
        return super().save(checkpoint)


def test_save_returns_before_the_file_is_written(tmp_path):
    folder = GatedFolder(tmp_path)
    weight = torch.ones(10)
    with CheckpointWriter(folder) as writer:
        writer.save(checkpoint_of(1, weight=weight))
        assert folder.reached.wait(timeout=60)
        writer.mark_best(1)
        weight.fill_(2.0)  # as the next optimizer step would
        assert names(tmp_path) == []  # nothing is written, and both calls have returned
        folder.gate.set()
        writer.wait()
        assert names(tmp_path) == ["best.pt", "last.pt", *step_files(1)]
    assert torch.equal(read_checkpoint(tmp_path / "best.pt").state["weight"], torch.ones(10))


def test_second_save_waits_for_the_first_before_it_copies(tmp_path):
    folder = GatedFolder(tmp_path)
    weight = torch.ones(10)
    with CheckpointWriter(folder) as writer:
        writer.save(checkpoint_of(1, weight=weight))
        second = threading.Thread(target=writer.save, args=(checkpoint_of(2, weight=weight),))
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
        weight.fill_(2.0)  # seen by the second copy, which does not exist yet
        folder.gate.set()
        second.join(timeout=60)
    assert read_checkpoint(tmp_path / "step_00000001.pt").state["weight"][0] == 1.0
    assert read_checkpoint(tmp_path / "step_00000002.pt").state["weight"][0] == 2.0


def test_opening_removes_partial_files_of_a_killed_run(tmp_path):
    (tmp_path / "step_00000004.pt.partial").write_text("half")
    (tmp_path / "mine.partial").write_text("mine")
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=2)):
        assert names(tmp_path) == ["mine.partial"]


# ---- bugs


@pytest.mark.parametrize("call", ["save", "mark_best", "wait", "close"])
def test_bug_in_the_thread_is_raised_by_the_next_call(tmp_path, call):
    writer = CheckpointWriter(CheckpointFolder(tmp_path, keep=2))
    writer.save(checkpoint_of(1, output=tmp_path))  # reading would refuse a path
    writer._thread.submit(int).result()  # the thread has finished the write
    next_call = {"save": lambda: writer.save(filled(2)), "mark_best": lambda: writer.mark_best(1)}
    with pytest.raises(TypeError, match=r"cannot be read back: it refers to pathlib"):
        next_call.get(call, getattr(writer, call))()
    if call != "close":
        writer.save(filled(3))  # raised only once
        writer.close()
        assert names(tmp_path) == ["last.pt", *step_files(3)]


def test_best_step_must_have_been_saved(tmp_path):
    writer = CheckpointWriter(CheckpointFolder(tmp_path, keep=2))
    writer.mark_best(7)
    with pytest.raises(AssertionError, match="step_00000007"):
        writer.close()


def test_error_in_the_loop_is_not_hidden_by_one_in_the_thread(tmp_path, caplog):
    with pytest.raises(ZeroDivisionError), CheckpointWriter(CheckpointFolder(tmp_path, keep=2)) as writer:
        writer.save(checkpoint_of(1, output=tmp_path))
        1 / 0  # noqa: B018
    assert "cannot be read back" in caplog.text


# ---- the copy


def test_host_copy_shares_no_memory_and_keeps_types(tmp_path):
    big = torch.arange(1_000_000.0)
    norm = nn.BatchNorm2d(3)
    original = {
        "view": big[10:20],
        "expanded": torch.zeros(1).expand(50),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": norm.weight,
        "nested": [{"a": (torch.ones(2), 1, None, "text")}, OrderedDict(b=torch.zeros(2, dtype=torch.bfloat16))],
        "state": norm.state_dict(),
        "milestones": Counter({3: 1}),
        "random": random.getstate(),
        "set": {1, 2},
    }
    copied = host_copy(original)
    torch.save(copied, tmp_path / "copied.pt")
    assert (tmp_path / "copied.pt").stat().st_size < 50_000  # of the view only, not 4 MB
    expected = json.dumps(original, default=lambda value: value.tolist() if hasattr(value, "tolist") else list(value))
    big.zero_()
    original["channels last"].zero_()
    original["nested"][0]["a"][0].zero_()
    original["nested"].append(1)
    original["state"]["running_var"].zero_()
    norm.weight.data.zero_()
    original["milestones"][3] = 5
    original["set"].add(3)
    assert (
        json.dumps(copied, default=lambda value: value.tolist() if hasattr(value, "tolist") else list(value))
        == expected
    )
    assert copied["channels last"].is_contiguous(memory_format=torch.channels_last)
    assert copied["expanded"].untyped_storage().nbytes() == 50 * 4
    assert not copied["parameter"].requires_grad
    assert isinstance(copied["nested"][1], OrderedDict) and isinstance(copied["milestones"], Counter)
    assert copied["state"]._metadata == norm.state_dict()._metadata


def test_resuming_from_a_written_state_continues_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model.to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    scaler = torch.amp.GradScaler("cpu")
    averaged = {name: value.clone() for name, value in model.state_dict().items()}

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(2, 3, 8, 8)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            floats = [name for name, value in averaged.items() if value.is_floating_point()]
            torch._foreach_lerp_([averaged[n] for n in floats], [model.state_dict()[n] for n in floats], 0.1)

    def state() -> dict:
        return {
            "model": model.state_dict(),
            "ema": averaged,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": scaler.state_dict(),
            "rng": {"torch": torch.get_rng_state(), "python": random.getstate()},
            "best": float("nan"),
        }

    train(3)
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=2)) as writer:
        writer.save(checkpoint_of(3, **state()))
        train(3)  # while the checkpoint is written
        straight = host_copy(state())
    read = read_checkpoint(tmp_path / "last.pt")
    model.load_state_dict(read.state["model"])
    optimizer.load_state_dict(read.state["optimizer"])
    schedule.load_state_dict(read.state["schedule"])
    scaler.load_state_dict(read.state["scaler"])
    averaged = read.state["ema"]
    torch.set_rng_state(read.state["rng"]["torch"])
    random.setstate(read.state["rng"]["python"])
    train(3)
    resumed = host_copy(state())
    as_bytes = [tmp_path / "straight", tmp_path / "resumed"]
    for value, path in zip((straight, resumed), as_bytes, strict=True):
        path.write_text(json.dumps(value, default=torch.Tensor.tolist))  # floats to their last bit
    assert as_bytes[0].read_text() == as_bytes[1].read_text()
    assert straight["optimizer"]["state"][0]["momentum_buffer"].abs().sum() > 0
    assert read._replace(state={}) == checkpoint_of(3)


# ---- a disk that fails


def test_training_continues_on_a_full_disk(small_disk, caplog):
    # A checkpoint of 60,000 floats takes 240 kB: four fit, and a fifth does not.
    with CheckpointWriter(CheckpointFolder(small_disk, keep=5)) as writer:
        for step in (1, 2, 3, 4):
            writer.save(filled(step, 60_000))
        writer.mark_best(2)
        writer.wait()
        assert (writer.failed_saves, caplog.text) == (0, "")
        intact = ["best.pt", "last.pt", *step_files(1, 2, 3, 4)]
        assert names(small_disk) == intact

        writer.save(filled(5, 60_000))
        writer.mark_best(5)
        writer.wait()
        assert writer.failed_saves == 1
        assert names(small_disk) == intact
        for step in (1, 2, 3, 4):
            assert read_checkpoint(small_disk / f"step_{step:08d}.pt").state["model"]["weight"][-1] == step
        assert read_checkpoint(small_disk / "last.pt").step == 4
        assert read_checkpoint(small_disk / "best.pt").step == 2
        failed, best = caplog.records
        assert (failed.levelno, best.levelno) == (logging.WARNING, logging.WARNING)
        for part in (
            f"{small_disk}/step_00000005.pt: could not save the checkpoint: ",
            "No space left on device",
            "failed saves: 1",
            "Intact: step_00000001.pt, step_00000002.pt, step_00000003.pt, step_00000004.pt.",
            f"Free disk space in {small_disk}",
        ):
            assert part in failed.getMessage()
        assert best.getMessage() == (
            f"{small_disk}/best.pt: not updated: step 5 is better, but saving step 5 failed; "
            "best.pt still points to step_00000002.pt"
        )

        writer.save(filled(6, 60_000))
        writer.wait()
        assert writer.failed_saves == 2

        (small_disk / "step_00000001.pt").unlink()  # the user frees disk space
        writer.save(filled(7, 60_000))
        writer.mark_best(7)
        writer.wait()
        assert writer.failed_saves == 2
        assert read_checkpoint(small_disk / "best.pt").step == 7
        assert read_checkpoint(small_disk / "last.pt").step == 7


def test_older_checkpoint_stays_intact_wherever_the_disk_becomes_full(small_disk):
    """Also if the file still fits and its checksum does not. The disk allocates space in pages."""
    folder = CheckpointFolder(small_disk, keep=1)
    saved = []
    for free_pages in range(1, 20):
        folder.save(filled(1, 10_000))
        page = os.statvfs(small_disk).f_bsize
        filler = small_disk / "filler"
        filler.write_bytes(bytes(page * (os.statvfs(small_disk).f_bavail - free_pages)))
        try:
            folder.save(filled(2, 10_000))
            saved.append(free_pages)
        except OSError:
            assert names(small_disk) == ["filler", "last.pt", *step_files(1)], free_pages
            assert read_checkpoint(small_disk / "last.pt").step == 1
        filler.unlink()
        for path in folder.files():
            path.unlink()
    # In pages of 4096 bytes: 11 for 40 kB, the config and the directory of the archive, one for the checksum.
    if page == 4096:
        assert saved == list(range(12, 20))


LIMITED = """
import logging, resource, sys, torch
from pathlib import Path
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter
from tests.helpers.checkpoints import checkpoint_of
logging.basicConfig(format="%(levelname)s %(message)s")
folder = Path(sys.argv[1])
with CheckpointWriter(CheckpointFolder(folder, keep=5)) as writer:
    writer.save(checkpoint_of(1, weight=torch.ones(10_000)))
    writer.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    writer.save(checkpoint_of(2, weight=torch.ones(10_000)))
    writer.mark_best(2)
    writer.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.save(checkpoint_of(3, weight=torch.ones(10_000)))
    writer.wait()
    print(writer.failed_saves)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 100, 5000, 40_500])
def test_file_size_limit_is_handled_like_a_full_disk(tmp_path, limit):
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(limit)],
        env={**os.environ, **ENVIRONMENT},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout == "1\n"
    failed, best = child.stderr.splitlines()
    assert failed.startswith(
        f"WARNING {tmp_path}/step_00000002.pt: could not save the checkpoint: [Errno 27] File too large"
    )
    assert "Intact: step_00000001.pt. " in failed
    assert best.endswith("best.pt: not updated: step 2 is better, but saving step 2 failed; best.pt does not exist")
    assert names(tmp_path) == ["last.pt", *step_files(1, 3)]
    assert read_checkpoint(tmp_path / "last.pt").step == 3


def test_removed_folder_is_created_again(tmp_path):
    folder = tmp_path / "checkpoints"
    with CheckpointWriter(CheckpointFolder(folder, keep=2)) as writer:
        folder.rmdir()
        folder.write_text("in the way")
        writer.save(filled(1))
        writer.wait()
        assert writer.failed_saves == 1
        folder.unlink()
        writer.save(filled(2))
    assert names(folder) == ["last.pt", *step_files(2)]


# ---- processes that end

START = """
import sys, torch
from pathlib import Path
from retinanet.checkpoint.folder import CheckpointFolder
from retinanet.checkpoint.writer import CheckpointWriter
from tests.helpers.checkpoints import checkpoint_of
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
    ("end", "status"),
    [
        ("raise RuntimeError('the loop failed')", 1),
        ("sys.exit(3)", 3),
        (CTRL_C, -signal.SIGINT),
        ("pass", 0),
    ],
    ids=["exception", "exit", "Ctrl-C", "end"],
)
def test_ending_process_finishes_its_write(tmp_path, end, status):
    program = START + "writer.save(checkpoint_of(1, weight=torch.ones(20_000_000))); writer.mark_best(1)\n" + end
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, **ENVIRONMENT},
        cwd=REPO,
        timeout=120,
        stderr=subprocess.PIPE,
    )
    assert child.returncode == status, child.stderr
    assert names(tmp_path) == ["best.pt", "last.pt", *step_files(1)]
    assert read_checkpoint(tmp_path / "best.pt").state["weight"].sum() == 20_000_000


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
def test_worker_forked_during_a_write_ends(tmp_path):
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
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={**os.environ, **ENVIRONMENT},
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):
        written = int(writer.stdout.readline())
    time.sleep(random.Random(seed).uniform(0, 0.15))
    writer.send_signal(signal.SIGKILL)
    written = max([written, *map(int, writer.stdout)])
    writer.wait()
    folder = CheckpointFolder(tmp_path, keep=2)
    for path in (tmp_path / "last.pt", tmp_path / "best.pt", *folder.files()):
        read = read_checkpoint(path)
        assert torch.equal(read.state["weight"], torch.full((2_000_000,), float(read.step)))
    path, read = folder.last_intact()
    assert path == folder.files()[-1]  # none had to be skipped
    assert read.step >= written
    with CheckpointWriter(folder) as again:
        assert not list(tmp_path.glob("*.partial"))
        again.save(read._replace(step=read.step + 1))
    assert folder.files()[-1].name == f"step_{read['step'] + 1:08d}.pt"
