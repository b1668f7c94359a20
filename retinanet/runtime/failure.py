"""Report a failure once: the first process to fail prints its traceback, and the others only refer to it."""

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


def process_name(rank: int, world_size: int) -> str:
    """Name of a process in messages. It includes the rank, which counts from 0, because file names contain it."""
    return f"process {rank + 1} of {world_size} (rank {rank})" if world_size > 1 else "the run"


def report_failure(
    store: Store | None, folder: Path, error: Exception, *, rank: int, world_size: int, doing: str
) -> None:
    """Report what this process was doing when it failed, and write its traceback to `failure_rank{rank}.txt`.

    If another process failed first, only refer to that one. Call this before closing the connections to the other
    processes: closing them makes the others fail too, and they then check which process failed first.

    Args:
        store: the store of the current attempt; None without torchrun.
        doing: phase, step and image ids.

    Raises:
        InputError: another process failed first or was lost. Not raised if `error` is itself an InputError, because its
            message is sufficient.
    """
    is_lost = _is_lost_contact(error)
    first = _first_to_fail(store, None if is_lost else rank) if store else rank
    if isinstance(error, InputError):
        return
    this = process_name(rank, world_size)
    if first is None:
        raise InputError(
            f"{this} lost contact with another process, which exited without a report: see the output of the "
            f"launcher, such as torchrun; own error: {first_line(error)}"
        ) from None
    if first != rank:
        raise InputError(
            f"{this} exits because {process_name(first, world_size)} failed first (see its output); own error: "
            f"{first_line(error)}"
        ) from None
    path = folder / f"failure_rank{rank}.txt"
    header = f"{this} failed; last activity: {doing}"
    # The interpreter also prints the traceback, but line by line, interleaved with the output of other processes.
    with contextlib.suppress(OSError):
        text = f"{header}\n{''.join(traceback.format_exception(error))}"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        header += f"; its traceback is in {path}"
    with contextlib.suppress(OSError):
        print(header, file=sys.stderr, flush=True)


def _is_lost_contact(error: Exception) -> bool:
    """Whether a collective failed because another process has exited. gloo has no dedicated error type for this."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError") or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def _first_to_fail(store: Store, rank: int | None) -> int | None:
    """Return the rank that failed first, after registering `rank` (unless None) if no other rank is registered."""
    try:
        if rank is not None:
            return int(store.compare_set(KEY, "", str(rank)))
        return int(store.get(KEY)) if store.check([KEY]) else None
    except RuntimeError:  # the process that hosts the store has exited
        return rank
