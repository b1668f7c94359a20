"""Nothing hangs in silence: a stall ends with every rank's stack, and an orphan ends itself."""

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

if TYPE_CHECKING:
    from torch.distributed import Store

    from retinanet.runtime.activity import Activity

EXIT_STALLED = 75  # EX_TEMPFAIL: the run may go on from its last checkpoint
POLL = 1.0  # seconds between two looks at the clock and at the other ranks
LINGER = 3.0  # seconds from a rank's dump to its end, so that the others see the request and write theirs
STORE_TIMEOUT = timedelta(seconds=5)  # of a request to a store whose host may hang
KEY = "retinanet/stalled"
PR_SET_PDEATHSIG = 1  # of prctl(2)
STDERR = 2  # the file descriptor: Python's own stream may be locked by the thread that hangs


class Watchdog:
    """Ends a run in which one rank gives no sign of life, after every rank has written its stacks.

        with Watchdog(store, activity, rank=rank, timeout=600.0, folder=folder):
            activity.begin("training", step, batches, image_ids)

    A rank that begins nothing for `timeout` seconds writes the stacks of all its threads to stderr and to
    `stall_rank{rank}.txt`, and asks the others over the store to do the same. Then all end with `EXIT_STALLED`. Ranks
    that wait for each other run out of time together: the file of the culprit is the one not waiting in a collective.

    Args:
        store: of this attempt alone, or None for one process. It is cloned: a thread shares no connection.
        activity: of this process.
        timeout: seconds, or None for no watching at all.
    """

    def __init__(self, store: Store | None, activity: Activity, *, rank: int, timeout: float | None, folder: Path):
        self.store = store
        self.activity = activity
        self.rank = rank
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
            # A call that holds the interpreter's lock stops this thread too, but not faulthandler's own.
            faulthandler.dump_traceback_later(max(limit - silent, 0.0) + 2 * POLL + LINGER, exit=True, file=STDERR)
            if silent > limit:
                self._end(store, f"no sign of life for {silent:.0f} s (train.stall_timeout)")
            if store is not None:
                try:
                    reason = store.get(KEY).decode() if store.check([KEY]) else None
                except RuntimeError:  # its host has ended; whoever waits for it runs out of time or fails
                    store = None
                else:
                    if reason is not None:
                        self._end(None, f"asked by {reason}")
        faulthandler.cancel_dump_traceback_later()

    def _end(self, store: Store | None, reason: str) -> None:
        # A file system that hangs may be what stalled the run: it must not keep this process from ending.
        faulthandler.dump_traceback_later(4 * LINGER, exit=True, file=STDERR)
        if store is not None:
            with contextlib.suppress(RuntimeError):
                store.set(KEY, f"rank {self.rank}, which gave {reason}")
        header = f"rank {self.rank} stalled: {reason}; last seen: {self.activity}\n"
        with contextlib.suppress(OSError):
            os.write(STDERR, header.encode())
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        with contextlib.suppress(OSError), open(self.folder / f"stall_rank{self.rank}.txt", "w") as file:
            file.write(header)
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
        time.sleep(LINGER)
        os._exit(EXIT_STALLED)


def end_with_parent() -> None:
    """End this process when its launcher does. A killed torchrun would leave its workers running.

    Only for a worker: a run that a shell put into the background is to outlive the shell.
    """
    parent = os.getppid()
    threading.Thread(target=_watch_parent, args=(parent,), name="parent", daemon=True).start()
    if sys.platform == "linux":  # at once, also while this interpreter is locked
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch_parent(parent: int) -> None:
    """Also sees a parent that died before the kernel was asked to tell."""
    while os.getppid() == parent:
        time.sleep(POLL)
    with contextlib.suppress(OSError):
        print("the process that started this one has ended: ending without saving", file=sys.stderr, flush=True)
    os._exit(1)
