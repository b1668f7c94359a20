"""A rank that fails takes the others with it: it alone says what happened, and they say that it was not they."""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import Store

KEY = "retinanet/failed"


def report_failure(store: Store, folder: Path, error: Exception, *, rank: int, doing: str) -> None:
    """Say where a rank failed, on stderr and in `failure_rank{rank}.txt`, unless another one has failed before.

    Call it while the connections to the others are still open: they fail when those close, and ask who was first.

    Args:
        store: of this attempt alone.
        doing: what it was at: phase, step and image ids.

    Raises:
        InputError: another rank failed first, and this error comes of it. A user's mistake always comes first.
    """
    first = _first_to_fail(store, rank)
    if isinstance(error, InputError):
        return  # told by its message alone, without a stack
    if first != rank:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"rank {rank} ends since rank {first} failed, which says why; noticed by: {reason}") from None
    stack = "".join(traceback.format_exception(error))
    text = f"rank {rank} failed; last seen: {doing}\n{stack}"
    with contextlib.suppress(OSError):  # the failure itself is what counts, also where the disk is full
        (folder / f"failure_rank{rank}.txt").write_text(text, encoding="utf-8")
    print(text, end="", file=sys.stderr, flush=True)  # in one piece: other ranks write as well


def _first_to_fail(store: Store, rank: int) -> int:
    try:
        return int(store.compare_set(KEY, "", str(rank)))
    except RuntimeError:  # its host has ended already; whether it failed, nobody can tell
        return rank
