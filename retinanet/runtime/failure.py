"""Report a failure once: the first process to fail prints its traceback, the others only refer to it."""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet.errors import InputError, first_line

if TYPE_CHECKING:
    from torch.distributed import Store

KEY = "retinanet/failed"


def report_failure(store: Store | None, folder: Path, error: Exception, *, rank: int, doing: str) -> None:
    """Report what a process was doing when it failed, with its traceback in `failure_rank{rank}.txt`.

    If another process failed first, only refer to it. Call this while the connections to the other processes are open:
    they fail when these close, and then ask which process was first.

    Args:
        store: of this attempt only; None in a single process.
        doing: phase, step and image ids.

    Raises:
        InputError: another process failed first or was lost, and caused this error. An `error` that is an InputError is
            never replaced: its own message is enough.
    """
    is_lost = _is_lost_contact(error)
    first = _first_to_fail(store, None if is_lost else rank) if store else rank
    if isinstance(error, InputError):
        return
    if first is None:
        raise InputError(
            f"rank {rank} lost contact with another rank, which exited without a report: see the output of the "
            f"launcher, such as torchrun; noticed by: {first_line(error)}"
        ) from None
    if first != rank:
        raise InputError(
            f"rank {rank} exits because rank {first} failed first (see its output); noticed by: {first_line(error)}"
        ) from None
    path = folder / f"failure_rank{rank}.txt"
    header = f"rank {rank} failed; last activity: {doing}"
    # The interpreter prints the traceback as well, but line by line, mixed with the output of other processes.
    with contextlib.suppress(OSError):
        path.write_text(f"{header}\n{''.join(traceback.format_exception(error))}", encoding="utf-8")
        header += f"; its traceback is in {path}"
    with contextlib.suppress(OSError):
        print(header, file=sys.stderr, flush=True)


def _is_lost_contact(error: Exception) -> bool:
    """Whether a collective failed because another process is gone. gloo has no error type for it."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError") or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def _first_to_fail(store: Store, rank: int | None) -> int | None:
    """Rank that failed first: this one, unless another has claimed it. With a `rank` of None, only look."""
    try:
        if rank is not None:
            return int(store.compare_set(KEY, "", str(rank)))
        return int(store.get(KEY)) if store.check([KEY]) else None
    except RuntimeError:  # the process that hosts the store has exited
        return rank
