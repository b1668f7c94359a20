"""Stop requests: on SIGTERM or SIGINT, all processes finish the same step, save, and exit with code 143."""

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

from retinanet.runtime.failure import process_name

if TYPE_CHECKING:  # importing torch would delay the signal handlers by seconds
    from torch.distributed import Store

EXIT_STOPPED = 143  # 128 + SIGTERM, which shells and schedulers interpret as stopped on request
PREEMPTED = "preempted"  # file in the run folder that marks a run as stopped early and resumable
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A request often arrives twice: a scheduler signals both torchrun and its workers, and torchrun forwards the signal.
REPEAT_AFTER = 1.0  # seconds after which another signal counts as a second request
KEY = "retinanet/stop"
NUDGE = b"\0"  # wakes the listener; not a valid signal number


class StopRequest:
    """Catches SIGTERM and SIGINT during training, and stops all processes after the same step.

        with StopRequest(store, rank=rank, world_size=world_size, grace=25.0) as stop:
            while step < num_steps and not stop.due(step):
                ...
                step += 1

    A process that has not finished `grace` seconds after the request exits without saving. A second signal makes it
    exit immediately. Both work even while the main thread hangs in a collective, because signal numbers are written
    directly to a pipe that is read by a separate thread. Python allows signal handlers only in the main thread; in any
    other thread, only requests from other processes take effect. Processes forked during training get the previous
    handlers back.

    Args:
        store: the store of the current attempt (a restarted run must not find an old request); None for one process.
        grace: grace period in seconds. torchrun kills its workers 30 s after a stop signal, so keep this below 30.
        give_up: called on rank 0 with the signal name at the end of the grace period, just before the process exits.
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
        self.signal_name: str | None = None  # first signal received by any process
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
        """Whether to stop after `step` completed steps. Call this once before each step; it never blocks."""
        if self._stop_after is None:
            self._stop_after = self._agree(step)
        return self._stop_after is not None and step >= self._stop_after

    def _agree(self, step: int) -> int | None:
        """Step after which all processes stop; None until they have agreed on one.

        Each rank announces the earliest step after which it can stop. Once all ranks have done so, the latest of these
        steps is chosen. No rank can already be past it, however far its host runs ahead of the device, because a rank
        never begins a step that it has not announced. No rank waits for the others here either, because they may need
        it in a collective before they can announce their own step.
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
                if seen != proposed:  # another process wrote first: start over from its value
                    continue
            if self.signal_name is None:
                self.signal_name = request["signal"]
                os.write(self._write_end, NUDGE)  # start the grace period on this process too
            return max(steps.values()) if len(steps) == self.world_size else None

    def _listen(self) -> None:
        first_signal = deadline = None
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read_end], [], [], remaining)
            if not ready:
                _print(
                    f"{self.signal_name}: {process_name(self.rank, self.world_size)} did not finish its step within "
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
                    _kill_self_with(number)
            if deadline is None and self.signal_name is not None:
                deadline = now + self.grace
                if self.rank == 0:
                    _print(
                        f"{self.signal_name}: finishing the current step, saving and exiting; "
                        "a second signal makes the run exit immediately without saving"
                    )
            if self._closed:
                return

    def _remove_handlers(self) -> None:
        if self._handlers_before:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._handlers_before.items():
                # None means that the handler was not installed from Python, so Python cannot restore it.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._handlers_before = {}


def write_preempted(folder: Path, *, step: int | None, signal_name: str) -> None:
    """Write a file that marks the run as stopped early.

    The exit code cannot convey this under torchrun, which exits with 1 regardless of what its workers return.

    Args:
        step: step at which the run was saved; None if it stopped without saving.
    """
    content = {"step": step, "signal": signal_name, "time": datetime.now().astimezone().isoformat(timespec="seconds")}
    try:
        (folder / PREEMPTED).write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        _print(f"{folder / PREEMPTED}: cannot be written: {error}; a scheduler will treat this run as failed")


def clear_preempted(folder: Path) -> None:
    """Remove the file written by `write_preempted`, when a run starts or resumes."""
    (folder / PREEMPTED).unlink(missing_ok=True)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Do nothing: the interpreter writes the signal number to the pipe, but only if a Python handler is installed."""


def _kill_self_with(number: int) -> None:
    """Kill this process with a signal as if the signal had not been caught.

    This calls libc, because Python can reset signal handlers only in the main thread, which may be hanging.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(number, None)  # SIG_DFL
    os.kill(os.getpid(), number)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # Ctrl-C may also have terminated the process that reads stderr
        print(text, file=sys.stderr, flush=True)
