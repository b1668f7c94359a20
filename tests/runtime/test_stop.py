"""Real processes that get real signals; what they agree on is also tried over many random schedules."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import retinanet.runtime.stop as stop_module
from retinanet.runtime.stop import EXIT_STOPPED, StopRequest, clear_preempted, write_preempted

PATIENCE = 120.0  # seconds until a test gives up; nothing here takes long unless it hangs
SPAWNER = multiprocessing.get_context("forkserver")  # ranks fork from a process with one thread
SPAWNER.set_forkserver_preload(["torch.distributed", "retinanet.runtime.stop", "retinanet.runtime.watchdog"])


class Ranks:
    """Processes that run `body(rank, folder, port)` each, on a store that this process hosts."""

    def __init__(self, body, folder: Path, world_size: int):
        self.folder = folder
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes = [
            SPAWNER.Process(target=run_body, args=(body, rank, folder, self.store.port)) for rank in range(world_size)
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
        """Until the rank has written this to stderr."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.said(rank):
            assert time.monotonic() < deadline, self.said(rank)
            time.sleep(0.01)

    def said(self, rank: int) -> str:
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


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def train_together(rank: int, folder: Path, port: int, world_size: int) -> None:
    store = connect(port)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    with StopRequest(store, grace=PATIENCE, rank=rank, world_size=world_size) as stop:
        step = 0
        while not stop.due(step):
            time.sleep(random.random() * 0.02)
            dist.all_reduce(torch.ones(1))  # one rank that made a step more than another would wait here for ever
            step += 1
            say(f"done {step}.")
    (folder / f"stopped{rank}").write_text(f"{step} {stop.signal_name}")
    sys.exit(EXIT_STOPPED)


def train_two(rank, folder, port):
    train_together(rank, folder, port, world_size=2)


def train_three(rank, folder, port):
    train_together(rank, folder, port, world_size=3)


def train_apart(rank, folder, port):
    """As on a GPU, where a host may be many steps ahead: nothing in the loop waits for the other rank."""
    with StopRequest(connect(port), grace=PATIENCE, rank=rank, world_size=2) as stop:
        step = 0
        while not stop.due(step):
            time.sleep(0.002 if rank else 0.02)
            step += 1
            say(f"done {step}.")
    (folder / f"stopped{rank}").write_text(f"{step} {stop.signal_name}")
    sys.exit(EXIT_STOPPED)


def train_alone(rank, folder, port):
    """One process, which is told twice within a moment, as by a terminal and by a launcher."""
    stop_module.REPEAT_AFTER = PATIENCE  # in this process alone: the moment may be long on a busy machine
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
    """The main thread sits in C++, where no handler written in Python ever runs."""
    with StopRequest(None, grace=PATIENCE):
        say("done 0.")
        connect(port).get("what nobody sets")


def hang_impatiently(rank, folder, port):
    with StopRequest(None, grace=0.3, give_up=lambda name: write_preempted(folder, step=None, signal_name=name)):
        say("done 0.")
        connect(port).get("what nobody sets")


def hang_while_saving(rank, folder, port):
    """Rank 0 gets no signal of its own, and its grace counts all the same."""
    store = connect(port)
    with StopRequest(store, grace=0.3 if rank == 0 else PATIENCE, rank=rank, world_size=2) as stop:
        step = 0
        while not stop.due(step):
            time.sleep(0.01)
            step += 1
            say(f"done {step}.")
        if rank == 0:
            store.get("what nobody sets")
    sys.exit(EXIT_STOPPED)


def stopped(folder: Path, world_size: int) -> list[str]:
    return [(folder / f"stopped{rank}").read_text() for rank in range(world_size)]


def test_a_signal_to_one_rank_stops_both_after_the_same_step(tmp_path):
    with Ranks(train_two, tmp_path, 2) as ranks:
        ranks.wait_for("done 5.", rank=1)
        ranks.signal(1, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 2
    first, second = stopped(tmp_path, 2)
    assert first == second
    assert first.endswith("SIGTERM")
    assert "SIGTERM: the run finishes its step" in ranks.said(0)


def test_a_signal_to_every_rank_stops_all_after_the_same_step(tmp_path):
    with Ranks(train_three, tmp_path, 3) as ranks:
        ranks.wait_for("done 5.", rank=1)
        for rank in range(3):
            ranks.signal(rank, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 3
    assert len(set(stopped(tmp_path, 3))) == 1


@pytest.mark.parametrize("told", [0, 1])
def test_ranks_far_apart_stop_after_the_same_step(tmp_path, told):
    with Ranks(train_apart, tmp_path, 2) as ranks:
        for rank in range(2):
            ranks.wait_for("done 5.", rank)
        ranks.signal(told, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 2
    assert len(set(stopped(tmp_path, 2))) == 1


@pytest.mark.parametrize("seed", range(0, 100, 20))
def test_any_schedule_ends_after_one_step(seed):
    for schedule in range(seed, seed + 20):
        run_schedule(random.Random(schedule))


def run_schedule(draw: random.Random) -> None:
    world_size = draw.randint(1, 5)
    store = dist.HashStore()
    with contextlib.ExitStack() as stack:
        requests = [
            stack.enter_context(StopRequest(store, grace=PATIENCE, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        done = [draw.randint(0, 6) for _ in requests]
        running = set(range(world_size))
        # Some ranks are told, at moments of their own; any rank may be the next to reach the top of its loop.
        told = draw.sample(sorted(running), draw.randint(1, world_size))
        for _ in range(10_000):
            if told and draw.random() < 0.2:
                requests[told.pop()].signal_name = "SIGTERM"
            rank = draw.choice(sorted(running))
            if requests[rank].due(done[rank]):
                running.remove(rank)
            else:
                done[rank] += 1
            if not running:
                break
        assert not running
        assert len(set(done)) == 1, done
        assert all(request.due(done[0]) for request in requests)


def test_ctrl_c_finishes_the_step(tmp_path):
    with Ranks(train_alone, tmp_path, 1) as ranks:
        assert ranks.exit_codes() == [EXIT_STOPPED]
    assert stopped(tmp_path, 1) == ["4 SIGINT"]  # told with 3 steps done, in the middle of the next
    assert "a second signal makes it exit immediately" in ranks.said(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_also_while_hanging(tmp_path, number):
    with Ranks(hang, tmp_path, 1) as ranks:
        ranks.wait_for("done 0.", rank=0)
        ranks.signal(0, number)
        ranks.wait_for("finishes its step", rank=0)
        assert ranks.processes[0].is_alive()
        time.sleep(1.1)
        ranks.signal(0, number)
        assert ranks.exit_codes() == [-number]  # died of the signal: a shell sees 128 + its number


def test_a_process_that_hangs_ends_after_its_grace(tmp_path):
    with Ranks(hang_impatiently, tmp_path, 1) as ranks:
        ranks.wait_for("done 0.", rank=0)
        ranks.signal(0, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED]
    assert "exiting without saving; the last checkpoint is intact" in ranks.said(0)
    left = json.loads((tmp_path / "preempted").read_text())
    assert (left["step"], left["signal"]) == (None, "SIGTERM")  # so that a scheduler begins it again


def test_the_grace_of_a_rank_that_got_no_signal_counts_too(tmp_path):
    with Ranks(hang_while_saving, tmp_path, 2) as ranks:
        ranks.wait_for("done 3.", rank=1)
        ranks.signal(1, signal.SIGTERM)
        assert ranks.exit_codes() == [EXIT_STOPPED] * 2
    assert "rank 0: SIGTERM arrived, and the current step did not finish within 0.3 s" in ranks.said(0)


def fork_a_child(rank, folder, port):
    with StopRequest(None, grace=PATIENCE) as stop:
        child = os.fork()
        if child == 0:
            say("child.")
            time.sleep(PATIENCE)
            os._exit(0)
        while "child." not in (folder / "stderr0").read_text():
            time.sleep(0.01)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        time.sleep(0.2)  # a signal of the child's that arrived here would be heard by now
        assert not stop.due(0)
    sys.exit(-os.waitstatus_to_exitcode(status))


def test_a_forked_child_can_be_terminated_and_stops_nobody(tmp_path):
    with Ranks(fork_a_child, tmp_path, 1) as ranks:
        assert ranks.exit_codes() == [signal.SIGTERM]


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest(None, grace=PATIENCE) as stop:
        assert signal.getsignal(signal.SIGTERM) not in before
        assert not stop.due(0)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_installs_nothing_and_still_hears_other_ranks():
    store = dist.HashStore()
    seen = []

    def body():
        before = signal.getsignal(signal.SIGTERM)
        with StopRequest(store, grace=PATIENCE, rank=1, world_size=2) as stop:
            seen.append(signal.getsignal(signal.SIGTERM) is before)
            seen.append(stop.due(4))
            other.signal_name = "SIGTERM"
            seen.append(other.due(3))  # goes on to step 4 at least
            seen.append(stop.due(4))

    with StopRequest(store, grace=PATIENCE, rank=0, world_size=2) as other:
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        assert seen == [True, False, False, True]
        assert other.due(4)


def test_the_marker_of_a_stopped_run(tmp_path):
    clear_preempted(tmp_path)  # none there: nothing to do
    write_preempted(tmp_path, step=120, signal_name="SIGTERM")
    content = json.loads((tmp_path / "preempted").read_text())
    assert (content["step"], content["signal"]) == (120, "SIGTERM")
    clear_preempted(tmp_path)
    assert list(tmp_path.iterdir()) == []
