"""Stopping early, with real signals to real processes."""

import json
import os
import random
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import retinanet.runtime.stop as stop_module
from retinanet.runtime.stop import EXIT_STOPPED, StopRequest, write_preempted
from tests.helpers.processes import PROCESSES

PATIENCE = 120.0  # seconds until a test gives up; reached only if something hangs


class Ranks:
    """Start processes that each run `body(rank, folder, port)`, with a store hosted by the test process."""

    def __init__(self, body, folder: Path, world_size: int):
        self.folder = folder
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes = [
            PROCESSES.Process(target=run_body, args=(body, rank, folder, self.store.port)) for rank in range(world_size)
        ]

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.join()

    def wait_for(self, text: str, rank: int) -> None:
        """Wait until the rank has written `text` to stderr."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.stderr(rank):
            assert time.monotonic() < deadline, self.stderr(rank)
            time.sleep(0.01)

    def stderr(self, rank: int) -> str:
        path = self.folder / f"stderr{rank}"
        return path.read_text() if path.exists() else ""

    def signal(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.processes[rank].pid, number)

    def exit_codes(self) -> list[int]:
        for process in self.processes:
            process.join(PATIENCE)
        return [process.exitcode for process in self.processes]


def run_body(body, rank: int, folder: Path, port: int) -> None:
    with open(folder / f"stderr{rank}", "w") as file:
        os.dup2(file.fileno(), 2)
    body(rank, folder, port)


def connect(port: int) -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=PATIENCE))


def print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def train_synchronously(rank: int, folder: Path, port: int, world_size: int) -> None:
    store = connect(port)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    with StopRequest(store, grace=PATIENCE, rank=rank, world_size=world_size) as stop:
        step = 0
        while not stop.due(step):
            time.sleep(random.random() * 0.02)
            dist.all_reduce(torch.ones(1))  # hangs if the ranks take different numbers of steps
            step += 1
            print_to_stderr(f"done {step}.")
    (folder / f"stopped{rank}").write_text(f"{step} {stop.signal_name}")
    sys.exit(EXIT_STOPPED)


def train_two(rank, folder, port):
    train_synchronously(rank, folder, port, world_size=2)


def train_three(rank, folder, port):
    train_synchronously(rank, folder, port, world_size=3)


def train_unsynchronised(rank, folder, port):
    """Run steps that do not wait for the other rank, as on a GPU, where the host may be many steps ahead."""
    with StopRequest(connect(port), grace=PATIENCE, rank=rank, world_size=2) as stop:
        step = 0
        while not stop.due(step):
            time.sleep(0.002 if rank else 0.02)
            step += 1
            print_to_stderr(f"done {step}.")
    (folder / f"stopped{rank}").write_text(f"{step} {stop.signal_name}")
    sys.exit(EXIT_STOPPED)


def train_single(rank, folder, port):
    """Run a single process that receives two signals in quick succession, as from a terminal and a launcher."""
    stop_module.REPEAT_AFTER = PATIENCE  # in this process only; a busy machine may delay the second signal
    with StopRequest(None, grace=PATIENCE) as stop:
        step = 0
        while not stop.due(step):
            if step == 3:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.2)
            step += 1
    (folder / "stopped0").write_text(f"{step} {stop.signal_name}")
    sys.exit(EXIT_STOPPED)


def hang(rank, folder, port):
    """Make the main thread hang in C++, where Python signal handlers do not run."""
    with StopRequest(None, grace=PATIENCE):
        print_to_stderr("done 0.")
        connect(port).get("a key that is never set")


def hang_with_short_grace(rank, folder, port):
    with StopRequest(None, grace=0.3, give_up=lambda name: write_preempted(folder, step=None, signal_name=name)):
        print_to_stderr("done 0.")
        connect(port).get("a key that is never set")


def hang_while_saving(rank, folder, port):
    """Make rank 0, which receives no signal itself, hang after the stop request."""
    store = connect(port)
    with StopRequest(store, grace=0.3 if rank == 0 else PATIENCE, rank=rank, world_size=2) as stop:
        step = 0
        while not stop.due(step):
            time.sleep(0.01)
            step += 1
            print_to_stderr(f"done {step}.")
        if rank == 0:
            store.get("a key that is never set")
    sys.exit(EXIT_STOPPED)


def stopped(folder: Path, world_size: int) -> list[str]:
    return [(folder / f"stopped{rank}").read_text() for rank in range(world_size)]


def test_signal_to_one_rank_stops_both_after_the_same_step(tmp_path):
    with Ranks(train_two, tmp_path, 2) as ranks:
        ranks.wait_for("done 5.", rank=1)
        ranks.signal(1, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 2
    first, second = stopped(tmp_path, 2)
    assert first == second
    assert first.endswith("SIGTERM")
    assert "SIGTERM: finishing the current step" in ranks.stderr(0)


def test_signal_to_every_rank_stops_all_after_the_same_step(tmp_path):
    with Ranks(train_three, tmp_path, 3) as ranks:
        ranks.wait_for("done 5.", rank=1)
        for rank in range(3):
            ranks.signal(rank, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 3
    assert len(set(stopped(tmp_path, 3))) == 1


@pytest.mark.parametrize("signalled_rank", [0, 1])
def test_unsynchronised_ranks_stop_after_the_same_step(tmp_path, signalled_rank):
    with Ranks(train_unsynchronised, tmp_path, 2) as ranks:
        for rank in range(2):
            ranks.wait_for("done 5.", rank)
        ranks.signal(signalled_rank, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 2
    assert len(set(stopped(tmp_path, 2))) == 1


def test_repeated_ctrl_c_still_finishes_the_step(tmp_path):
    with Ranks(train_single, tmp_path, 1) as ranks:
        assert ranks.exit_codes() == [EXIT_STOPPED]
    assert stopped(tmp_path, 1) == ["4 SIGINT"]  # the signal arrived during the fourth step
    assert "a second signal makes the run exit immediately" in ranks.stderr(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_kills_a_hanging_process(tmp_path, number):
    with Ranks(hang, tmp_path, 1) as ranks:
        ranks.wait_for("done 0.", rank=0)
        ranks.signal(0, number)
        ranks.wait_for("finishing the current step", rank=0)
        assert ranks.processes[0].is_alive()
        time.sleep(1.1)
        ranks.signal(0, number)
        assert ranks.exit_codes() == [-number]  # killed by the signal: a shell sees 128 + its number


def test_hanging_process_exits_after_the_grace_period(tmp_path):
    with Ranks(hang_with_short_grace, tmp_path, 1) as ranks:
        ranks.wait_for("done 0.", rank=0)
        ranks.signal(0, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED]
    assert "exiting without saving; the last checkpoint is intact" in ranks.stderr(0)
    marker = json.loads((tmp_path / "preempted").read_text())
    assert (marker["step"], marker["signal"]) == (None, "SIGTERM")  # tells a scheduler to restart the run


def test_grace_period_also_applies_to_a_rank_that_received_no_signal(tmp_path):
    with Ranks(hang_while_saving, tmp_path, 2) as ranks:
        ranks.wait_for("done 3.", rank=1)
        ranks.signal(1, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 2
    assert "SIGTERM: process 1 of 2 (rank 0) did not finish its step within 0.3 s" in ranks.stderr(0)


def fork_a_child(rank, folder, port):
    with StopRequest(None, grace=PATIENCE) as stop:
        child = os.fork()
        if child == 0:
            print_to_stderr("child.")
            time.sleep(PATIENCE)
            os._exit(0)
        while "child." not in (folder / "stderr0").read_text():
            time.sleep(0.01)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        time.sleep(0.2)  # enough time for a signal to arrive here
        assert not stop.due(0)
    sys.exit(-os.waitstatus_to_exitcode(status))


def test_terminating_a_forked_child_does_not_stop_its_parent(tmp_path):
    with Ranks(fork_a_child, tmp_path, 1) as ranks:
        assert ranks.exit_codes() == [signal.SIGTERM]
