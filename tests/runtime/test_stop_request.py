"""Stop requests in one process, agreement under random schedules, and the marker of a stopped run."""

import contextlib
import json
import random
import signal
import threading

import pytest
import torch.distributed as dist

from retinanet.runtime.stop import StopRequest, clear_preempted, write_preempted

PATIENCE = 120.0  # seconds until a test gives up; reached only if something hangs


@pytest.mark.parametrize("seed", range(0, 100, 20))
def test_ranks_agree_on_one_step_under_random_schedules(seed):
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
        # Some ranks receive a signal, each at a random time; any rank may be the next to reach the top of its loop.
        to_signal = draw.sample(sorted(running), draw.randint(1, world_size))
        for _ in range(10_000):
            if to_signal and draw.random() < 0.2:
                requests[to_signal.pop()].signal_name = "SIGTERM"
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


def test_signal_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest(None, grace=PATIENCE) as stop:
        assert signal.getsignal(signal.SIGTERM) not in before
        assert not stop.due(0)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_stop_request_in_another_thread_installs_no_handler_and_follows_other_ranks():
    store = dist.HashStore()
    seen = []

    def body():
        before = signal.getsignal(signal.SIGTERM)
        with StopRequest(store, grace=PATIENCE, rank=1, world_size=2) as stop:
            seen.append(signal.getsignal(signal.SIGTERM) is before)
            seen.append(stop.due(4))
            other.signal_name = "SIGTERM"
            seen.append(other.due(3))  # it will take step 4 in any case
            seen.append(stop.due(4))

    with StopRequest(store, grace=PATIENCE, rank=0, world_size=2) as other:
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        assert seen == [True, False, False, True]
        assert other.due(4)


def test_marker_of_a_stopped_run_is_written_and_removed(tmp_path):
    clear_preempted(tmp_path)  # does nothing without a marker
    write_preempted(tmp_path, step=120, signal_name="SIGTERM")
    content = json.loads((tmp_path / "preempted").read_text())
    assert (content["step"], content["signal"]) == (120, "SIGTERM")
    clear_preempted(tmp_path)
    assert list(tmp_path.iterdir()) == []
