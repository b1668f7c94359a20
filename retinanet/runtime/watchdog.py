"""Watchdog for stalls: every process dumps its stack traces, then the run stops. Orphaned workers exit as well."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from retinanet.runtime.failure import process_name

if TYPE_CHECKING:
    from torch.distributed import Store

    from retinanet.runtime.activity import Activity

EXIT_STALLED = 75  # EX_TEMPFAIL: the run can be resumed from its last checkpoint
POLL = 1.0  # seconds between checks of the clock and of the other processes
LINGER = 3.0  # seconds to wait before exiting, so that other processes can see the request and dump their own stacks
STORE_TIMEOUT = timedelta(seconds=5)  # for store requests, because the process that hosts the store may hang
KEY = "retinanet/stalled"
PR_SET_PDEATHSIG = 1  # option of prctl(2)
STDERR = 2  # file descriptor, because the hanging thread may hold the lock of sys.stderr


class Watchdog:
    """Stops a run in which some process makes no progress, after every process has dumped its stack traces.

        with Watchdog(store, activity, rank=rank, world_size=world_size, timeout=600.0, folder=folder):
            activity.begin("training", step, batches, image_ids)

    If no new activity begins for `timeout` seconds, a process dumps the stack traces of all its threads to stderr and
    to `stall_rank{rank}.txt`, and asks the others through the store to do the same. Then all processes exit with
    `EXIT_STALLED`. Ranks that wait for each other time out together: the one that is not waiting in a collective caused
    the stall.

    Args:
        store: the store of the current attempt; None for one process. It is cloned, because threads cannot share a
            connection.
        activity: the current activity of this process.
        timeout: seconds without progress before the run stops; None disables the watchdog.
    """

    def __init__(
        self,
        store: Store | None,
        activity: Activity,
        *,
        timeout: float | None,
        folder: Path,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.store = store
        self.activity = activity
        self.rank = rank
        self.name = process_name(rank, world_size)
        self.timeout = timeout
        self.folder = folder
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.activity.begin("starting")
        if self.timeout is not None:
            store = None
            if self.store is not None:
                store = self.store.clone()
                store.set_timeout(STORE_TIMEOUT)
            self._thread = threading.Thread(target=self._watch, args=(store,), name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, store: Store | None) -> None:
        while not self._ended.wait(POLL):
            limit, silent = self.timeout, time.monotonic() - self.activity.current.began
            # A call that holds the GIL blocks this thread too, but not faulthandler's.
            faulthandler.dump_traceback_later(max(limit - silent, 0.0) + 2 * POLL + LINGER, exit=True, file=STDERR)
            if silent > limit:
                self._end(store, f"no progress for {silent:.0f} s (train.stall_timeout)")
            if store is not None:
                try:
                    reason = store.get(KEY).decode() if store.check([KEY]) else None
                except RuntimeError:  # the process that hosts the store has exited; those waiting for it will exit too
                    store = None
                else:
                    if reason is not None:
                        self._end(None, f"requested by {reason}")
        faulthandler.cancel_dump_traceback_later()

    def _end(self, store: Store | None, reason: str) -> None:
        # If a hanging file system caused the stall, it must not prevent this process from exiting.
        faulthandler.dump_traceback_later(4 * LINGER, exit=True, file=STDERR)
        if store is not None:
            with contextlib.suppress(RuntimeError):
                store.set(KEY, f"{self.name}, which made {reason}")
        header = f"{self.name} stalled: {reason}; last activity: {self.activity}\n"
        with contextlib.suppress(OSError):
            os.write(STDERR, header.encode(errors="backslashreplace"))
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        path = self.folder / f"stall_rank{self.rank}.txt"
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(header)
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
        time.sleep(LINGER)
        os._exit(EXIT_STALLED)


def end_with_parent() -> None:
    """Make this process exit when its launcher exits. Otherwise, killing torchrun would leave its workers running.

    Call this only in workers: a run started in the background must outlive its shell.
    """
    parent = os.getppid()
    threading.Thread(target=_watch_parent, args=(parent,), name="parent", daemon=True).start()
    if sys.platform == "linux":  # the kernel kills this process immediately, even while the GIL is held
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch_parent(parent: int) -> None:
    """Exit when the parent process has exited, even if that was before the kernel was asked to send a signal."""
    while os.getppid() == parent:
        time.sleep(POLL)
    with contextlib.suppress(OSError):
        print("the launcher of this process has exited: exiting without saving", file=sys.stderr, flush=True)
    os._exit(1)
