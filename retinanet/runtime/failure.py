"""A rank that fails takes the others with it: it alone says what happened, and they say that it was not they."""

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
    """Say what a rank was at when it failed, its stack in `failure_rank{rank}.txt`, unless another one is to blame.

    Call it while the connections to the others are still open: they fail when those close, and ask who was first.

    Args:
        store: of this attempt alone; None in a single process.
        doing: phase, step and image ids.

    Raises:
        InputError: another rank failed first or is gone, and this error comes of it. A user's mistake is told by its
            own message in any case.
    """
    is_lost = _is_lost_contact(error)
    first = _first_to_fail(store, None if is_lost else rank) if store else rank
    if isinstance(error, InputError):
        return
    if first is None:
        raise InputError(
            f"rank {rank} lost contact with another rank, which ended without a word: what started them, such as "
            f"torchrun, knows how; noticed by: {first_line(error)}"
        ) from None
    if first != rank:
        raise InputError(
            f"rank {rank} ends since rank {first} failed, which says why; noticed by: {first_line(error)}"
        ) from None
    path = folder / f"failure_rank{rank}.txt"
    header = f"rank {rank} failed; last seen: {doing}"
    # The interpreter prints the stack as well, but line by line, and other ranks print between them.
    with contextlib.suppress(OSError):
        path.write_text(f"{header}\n{''.join(traceback.format_exception(error))}", encoding="utf-8")
        header += f"; its stack is in {path}"
    with contextlib.suppress(OSError):
        print(header, file=sys.stderr, flush=True)


def _is_lost_contact(error: Exception) -> bool:
    """Of a collective whose other side is gone. gloo has no type of error for it."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError") or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def _first_to_fail(store: Store, rank: int | None) -> int | None:
    """Which rank has failed first, as this one fails; a `rank` of None looks and claims nothing."""
    try:
        if rank is not None:
            return int(store.compare_set(KEY, "", str(rank)))
        return int(store.get(KEY)) if store.check([KEY]) else None
    except RuntimeError:  # the store's host has ended already
        return rank
