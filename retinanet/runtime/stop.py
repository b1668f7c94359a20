"""Ending early: on SIGTERM or SIGINT the run finishes its step on every rank, saves, and ends with exit code 143."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # what handles a signal should not need seconds to be imported
    from torch.distributed import Store

EXIT_STOPPED = 143  # 128 + SIGTERM: what shells and schedulers take for a run that was asked to end
PREEMPTED = "preempted"  # in the run folder: the run was stopped in the middle and can go on
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# One request often arrives twice: a scheduler signals torchrun and its workers, and torchrun passes its own on.
REPEAT_AFTER = 1.0  # seconds; a later signal is a second request
KEY = "retinanet/stop"
NUDGE = b"\0"  # no signal has this number


class StopRequest:
    """Catches SIGTERM and SIGINT while a run trains, and makes all ranks stop after the same step.

        with StopRequest(store, rank=rank, world_size=world_size, grace=25.0) as stop:
            while step < num_steps and not stop.due(step):
                ...
                step += 1

    A process that is not through `grace` seconds after the request ends without saving. This, and a second signal,
    also work while the main thread hangs in a collective: the signal's number goes straight into a pipe, and a thread
    reads it. In another thread than the main one Python allows no handlers: then only requests of other ranks count.
    Processes forked meanwhile get the previous handlers back.

    Args:
        store: of this attempt alone (after a restart an old request must not be found), or None for one process.
        grace: seconds. torchrun kills its workers 30 s after it was told to end, so stay below that.
        give_up: called with the name of the signal by rank 0 when the grace is over, before the process ends.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        grace: float,
        rank: int = 0,
        world_size: int = 1,
        give_up: Callable[[str], None] = lambda signal_name: None,
    ):
        assert store is not None or world_size == 1, world_size
        self.store = store
        self.grace = grace
        self.rank = rank
        self.world_size = world_size
        self.give_up = give_up
        self.signal_name: str | None = None  # of the signal that came first, to whichever rank
        self._stop_after: int | None = None
        self._handlers_before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._closed = False

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._listener = threading.Thread(target=self._listen, name="stop request", daemon=True)
        self._listener.start()
        if threading.current_thread() is threading.main_thread():
            self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
            self._handlers_before = {number: signal.signal(number, _heard) for number in SIGNALS}
            os.register_at_fork(after_in_child=self._remove_handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove_handlers()
        self._closed = True
        os.write(self._write_end, NUDGE)
        self._listener.join()
        os.close(self._read_end)
        os.close(self._write_end)

    def due(self, step: int) -> bool:
        """Whether the run ends here, with `step` steps done. Call it once before each step; it waits for nobody."""
        if self._stop_after is None:
            self._stop_after = self._agree(step)
        return self._stop_after is not None and step >= self._stop_after

    def _agree(self, step: int) -> int | None:
        """The step after which all ranks stop, None as long as it is open.

        Each rank announces the step that it goes on to at least. When the last one has, the largest of them is it. No
        rank can be past it, however far a host runs ahead of its device, since none begins a step unannounced; and
        none waits, since another may need its part in a collective to get here at all.
        """
        if self.store is None:
            return None if self.signal_name is None else step
        if self.signal_name is None and not self.store.check([KEY]):
            return None
        found = ""
        while True:
            request = json.loads(found) if found else {"signal": self.signal_name, "steps": {}}
            steps = request["steps"]
            if len(steps) < self.world_size:
                is_last = len(steps.keys() | {str(self.rank)}) == self.world_size
                steps[str(self.rank)] = step if is_last else step + 1
                wanted = json.dumps(request)
                found = self.store.compare_set(KEY, found, wanted).decode()
                if found != wanted:  # another rank was faster: this is what it wrote
                    continue
            if self.signal_name is None:
                self.signal_name = request["signal"]
                os.write(self._write_end, NUDGE)  # the grace of this rank begins as well
            return max(steps.values()) if len(steps) == self.world_size else None

    def _listen(self) -> None:
        first_signal = deadline = None
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read_end], [], [], remaining)
            if not ready:
                _say(
                    f"rank {self.rank}: {self.signal_name} came {self.grace:g} s ago (train.grace), and what the run "
                    "was at is not through: ending without saving; the last checkpoint is whole"
                )
                if self.rank == 0:
                    self.give_up(self.signal_name)
                os._exit(EXIT_STOPPED)
            now = time.monotonic()
            for number in os.read(self._read_end, 256):
                if number not in SIGNALS:  # a nudge, or a signal that others handle
                    continue
                if first_signal is None:
                    first_signal = now
                    self.signal_name = self.signal_name or signal.Signals(number).name
                elif now - first_signal >= REPEAT_AFTER:
                    _end_by(number)
            if deadline is None and self.signal_name is not None:
                deadline = now + self.grace
                if self.rank == 0:
                    _say(
                        f"{self.signal_name}: the run finishes its step, saves and ends; "
                        "a second signal ends it at once, without saving"
                    )
            if self._closed:
                return

    def _remove_handlers(self) -> None:
        if self._handlers_before:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._handlers_before.items():
                # None: it was not set from Python, and cannot be put back from there
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._handlers_before = {}


def write_preempted(folder: Path, *, step: int | None, signal_name: str) -> None:
    """Leave a word that the run was stopped in the middle. torchrun's exit code is 1 whatever its workers return.

    Args:
        step: that was saved; None for the last one before.
    """
    content = {"step": step, "signal": signal_name, "time": datetime.now().astimezone().isoformat(timespec="seconds")}
    try:
        (folder / PREEMPTED).write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        _say(f"{folder / PREEMPTED}: CANNOT BE WRITTEN: {error}. A scheduler will take this run for one that failed")


def clear_preempted(folder: Path) -> None:
    """For a run that starts or goes on."""
    (folder / PREEMPTED).unlink(missing_ok=True)


def _heard(number: int, frame: FrameType | None) -> None:
    """Nothing: what it takes for the interpreter to write the number of the signal into the pipe."""


def _end_by(number: int) -> None:
    """Die of a signal as if it had never been caught. Only the main thread may say so in Python, and it may hang."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(number, None)  # SIG_DFL
    os.kill(os.getpid(), number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # Ctrl-C also ends what stderr is piped into
        print(text, file=sys.stderr, flush=True)
