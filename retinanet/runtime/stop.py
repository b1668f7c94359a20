"""Stop request: on SIGTERM or SIGINT every process finishes the same step and saves; the exit code is then 143."""

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

if TYPE_CHECKING:  # importing torch would delay the signal handlers by seconds
    from torch.distributed import Store

EXIT_STOPPED = 143  # 128 + SIGTERM: to shells and schedulers, a run that was asked to stop
PREEMPTED = "preempted"  # file in the run folder: the run was stopped early and can be resumed
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A request often arrives twice: a scheduler signals torchrun and its workers, and torchrun forwards its signal.
REPEAT_AFTER = 1.0  # seconds; a later signal is a second request
KEY = "retinanet/stop"
NUDGE = b"\0"  # no signal has this number


class StopRequest:
    """Catches SIGTERM and SIGINT during training, and makes all processes stop after the same step.

        with StopRequest(store, rank=rank, world_size=world_size, grace=25.0) as stop:
            while step < num_steps and not stop.due(step):
                ...
                step += 1

    A process that has not finished `grace` seconds after the request exits without saving. This, and a second signal,
    also work while the main thread hangs in a collective: the signal number is written directly into a pipe that a
    thread reads. Python allows handlers only in the main thread; in another one, only requests of other processes
    count. Processes forked during training get the previous handlers back.

    Args:
        store: of this attempt only (a restarted run must not find an old request), or None for one process.
        grace: seconds. torchrun kills its workers 30 s after a stop signal, so keep this below 30.
        give_up: called by rank 0 with the name of the signal when the grace period is over, before the process exits.
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
        self.signal_name: str | None = None  # first signal, on any process
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
            self._handlers_before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
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
        """Whether to stop after `step` completed steps. Call it once before each step; it never waits."""
        if self._stop_after is None:
            self._stop_after = self._agree(step)
        return self._stop_after is not None and step >= self._stop_after

    def _agree(self, step: int) -> int | None:
        """Step after which all processes stop; None until they have agreed.

        Each rank announces the earliest step that it can stop after. When all have, the largest one is chosen. No rank
        can be past it, however far a host runs ahead of its device, because none begins a step unannounced. No rank
        waits either: another one may need it in a collective to get this far.
        """
        if self.store is None:
            return None if self.signal_name is None else step
        if self.signal_name is None and not self.store.check([KEY]):
            return None
        seen = ""
        while True:
            request = json.loads(seen) if seen else {"signal": self.signal_name, "steps": {}}
            steps = request["steps"]
            if len(steps) < self.world_size:
                is_last = len(steps.keys() | {str(self.rank)}) == self.world_size
                steps[str(self.rank)] = step if is_last else step + 1
                proposed = json.dumps(request)
                seen = self.store.compare_set(KEY, seen, proposed).decode()
                if seen != proposed:  # another process was faster, and wrote this
                    continue
            if self.signal_name is None:
                self.signal_name = request["signal"]
                os.write(self._write_end, NUDGE)  # starts the grace period of this process too
            return max(steps.values()) if len(steps) == self.world_size else None

    def _listen(self) -> None:
        first_signal = deadline = None
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read_end], [], [], remaining)
            if not ready:
                _print(
                    f"rank {self.rank}: {self.signal_name} arrived, and the current step did not finish within "
                    f"{self.grace:g} s (train.grace): exiting without saving; the last checkpoint is intact"
                )
                if self.rank == 0:
                    self.give_up(self.signal_name)
                os._exit(EXIT_STOPPED)
            now = time.monotonic()
            for number in os.read(self._read_end, 256):
                if number not in SIGNALS:  # a nudge, or a signal handled elsewhere
                    continue
                if first_signal is None:
                    first_signal = now
                    self.signal_name = self.signal_name or signal.Signals(number).name
                elif now - first_signal >= REPEAT_AFTER:
                    _die_of(number)
            if deadline is None and self.signal_name is not None:
                deadline = now + self.grace
                if self.rank == 0:
                    _print(
                        f"{self.signal_name}: the run finishes its step, saves and exits; "
                        "a second signal makes it exit immediately, without saving"
                    )
            if self._closed:
                return

    def _remove_handlers(self) -> None:
        if self._handlers_before:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._handlers_before.items():
                # None: the handler was not set from Python, and cannot be restored from Python
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._handlers_before = {}


def write_preempted(folder: Path, *, step: int | None, signal_name: str) -> None:
    """Write a file that marks the run as stopped early: torchrun exits with 1 whatever its workers return.

    Args:
        step: step that was saved; None if only an earlier checkpoint exists.
    """
    content = {"step": step, "signal": signal_name, "time": datetime.now().astimezone().isoformat(timespec="seconds")}
    try:
        (folder / PREEMPTED).write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        _print(f"{folder / PREEMPTED}: cannot be written: {error}; a scheduler will treat this run as failed")


def clear_preempted(folder: Path) -> None:
    """Remove the file of `write_preempted`, when a run starts or resumes."""
    (folder / PREEMPTED).unlink(missing_ok=True)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Do nothing: with a handler, the interpreter writes the signal number into the pipe."""


def _die_of(number: int) -> None:
    """Die of a signal as if it had not been caught. In Python only the main thread can do this, and it may hang."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(number, None)  # SIG_DFL
    os.kill(os.getpid(), number)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # Ctrl-C also ends the process that stderr is piped to
        print(text, file=sys.stderr, flush=True)
