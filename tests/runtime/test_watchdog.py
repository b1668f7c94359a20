"""Watchdog, with real processes that hang and real parents that are killed."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from retinanet.runtime import watchdog
from retinanet.runtime.activity import Activity
from retinanet.runtime.watchdog import EXIT_STALLED, Watchdog
from tests.helpers.processes import PROCESSES

PATIENCE = 120.0  # seconds until a test gives up; reached only if something hangs


def run_ranks(body, folder: Path, world_size: int) -> list[int]:
    """Run `body(rank, folder, port)` in processes with a store hosted by this one, and return their exit codes."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [PROCESSES.Process(target=run_body, args=(body, rank, folder, store.port)) for rank in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(PATIENCE)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    return codes


def run_body(body, rank: int, folder: Path, port: int) -> None:
    with open(folder / f"stderr{rank}", "w") as file:
        os.dup2(file.fileno(), 2)
    watchdog.POLL, watchdog.LINGER = 0.1, 0.5  # in this process only
    body(rank, folder, port)


def connect(port: int) -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", port, is_master=False)


def stuck_here() -> None:
    time.sleep(PATIENCE)


def one_rank_stalls(rank, folder, port):
    activity = Activity()
    with Watchdog(connect(port), activity, rank=rank, world_size=2, timeout=1.0 if rank else PATIENCE, folder=folder):
        for step in range(7):
            activity.begin("training", step, image_ids=(2 * step, 2 * step + 1))
        if rank == 1:
            stuck_here()
        while True:  # this rank makes progress
            activity.begin("training", step)
            time.sleep(0.01)


def test_stall_of_one_rank_makes_every_rank_write_its_stacks(tmp_path):
    assert run_ranks(one_rank_stalls, tmp_path, 2) == [EXIT_STALLED] * 2
    stalled, other = ((tmp_path / f"stall_rank{rank}.txt").read_text() for rank in (1, 0))
    # step 6, the last of seven, has images 12 and 13
    assert "process 2 of 2 (rank 1) stalled: no progress for" in stalled
    assert "training, step 6, images [12, 13]" in stalled
    assert "in stuck_here" in stalled
    assert "requested by process 2 of 2 (rank 1), which made no progress" in other
    assert "in one_rank_stalls" in other
    assert "stuck_here" not in other
    for rank, text in ((0, other), (1, stalled)):
        assert text.splitlines()[0] in (tmp_path / f"stderr{rank}").read_text()


def stalls_without_store_and_folder(rank, folder, port):
    with Watchdog(None, Activity(), rank=0, timeout=0.3, folder=folder / "gone"):
        stuck_here()


def test_stall_without_store_and_folder_is_reported_on_stderr(tmp_path):
    assert run_ranks(stalls_without_store_and_folder, tmp_path, 1) == [EXIT_STALLED]
    stderr = (tmp_path / "stderr0").read_text()
    assert "last activity: starting\n" in stderr
    assert "in stuck_here" in stderr


def stalls_after_the_store_is_gone(rank, folder, port):
    host = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with Watchdog(connect(host.port), Activity(), rank=0, timeout=0.6, folder=folder):
        del host
        stuck_here()


def test_stall_is_detected_after_the_store_has_exited(tmp_path):
    assert run_ranks(stalls_after_the_store_is_gone, tmp_path, 1) == [EXIT_STALLED]


def stalls_while_holding_the_interpreter_lock(rank, folder, port):
    activity = Activity()
    with Watchdog(None, activity, rank=0, timeout=1.0, folder=folder):
        for step in range(10):  # wait until after the first check
            time.sleep(0.03)
            activity.begin("training", step)
        ctypes.PyDLL(None).sleep(int(PATIENCE))


def test_stall_while_holding_the_interpreter_lock_stops_the_process(tmp_path):
    assert run_ranks(stalls_while_holding_the_interpreter_lock, tmp_path, 1) == [1]
    assert "in stalls_while_holding_the_interpreter_lock" in (tmp_path / "stderr0").read_text()


def outlives_its_watchdog(rank, folder, port):
    activity = Activity()
    with Watchdog(None, activity, rank=0, timeout=0.3, folder=folder):
        activity.begin("training", 8)
    time.sleep(1.0)  # the watchdog has stopped
    sys.exit(5)


def test_closed_watchdog_does_not_stop_the_process(tmp_path):
    assert run_ranks(outlives_its_watchdog, tmp_path, 1) == [5]
    assert not (tmp_path / "stall_rank0.txt").exists()


def sleeps_without_a_timeout(rank, folder, port):
    activity = Activity()
    with Watchdog(None, activity, rank=0, timeout=None, folder=folder):
        activity.begin("training", 1, image_ids=(1, 2))
        time.sleep(0.5)
    sys.exit(5)


def test_watchdog_without_a_timeout_does_not_stop_the_process(tmp_path):
    assert run_ranks(sleeps_without_a_timeout, tmp_path, 1) == [5]


PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"
ENDED_BY_THE_KERNEL = """
import ctypes
from retinanet.runtime import watchdog
watchdog.end_with_parent()
print("ready", flush=True)
ctypes.PyDLL(None).sleep(60)  # no Python thread can run
"""
ENDED_BY_A_THREAD = """
import os, threading, time
from retinanet.runtime import watchdog
watchdog.POLL = 0.1
threading.Thread(target=watchdog._watch_parent, args=(os.getppid(),), daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""
UNWATCHED = """
import os, time
print("ready", flush=True)
time.sleep(1)
os.write(1, b"outlived")
"""


@pytest.mark.parametrize(
    ("child", "output"),
    [(ENDED_BY_THE_KERNEL, b""), (ENDED_BY_A_THREAD, b""), (UNWATCHED, b"outlived")],
    ids=["ended by the kernel", "ended by a thread", "unwatched"],
)
def test_only_a_watched_child_exits_with_its_killed_parent(child, output):
    if child is ENDED_BY_THE_KERNEL and sys.platform != "linux":
        pytest.skip("only Linux signals a process when its parent dies")
    root = Path(watchdog.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, child], stdout=subprocess.PIPE, env=environment, bufsize=0)
    with parent.stdout as pipe:
        assert pipe.readline() == b"ready\n"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        # Only the child still holds the other end of the pipe: end of file means that the child has exited.
        ready, _, _ = select.select([pipe], [], [], 30)
        assert ready, "the child is still running"
        assert pipe.read() == output
