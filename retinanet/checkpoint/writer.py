"""Checkpoints written in the background, while training goes on."""

import concurrent.futures
import copy
import logging
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from retinanet.checkpoint.folder import CheckpointFolder

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes checkpoints in one thread, in the order they were given. The training loop does not wait for the disk.

    A disk that is full or cannot be written to is warned of, and training goes on. Any other error of the thread is
    a mistake of ours and is raised by the next call. Whatever ends the process short of a kill, a write under way is
    finished first: Python joins the thread.

    It is a context manager, which ends in `close`. Opening it removes what a killed run left half written.
    """

    def __init__(self, folder: CheckpointFolder):
        folder.open_for_writing()
        self.folder = folder
        self.failed_saves = 0  # so far; after `wait`, of all that were given
        self._failed_steps: set[int] = set()
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: list[concurrent.futures.Future[None]] = []

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Copy the content to the host, and have it written as the checkpoint of a step.

        When this returns, the content may be changed. It waits for a write that is still under way, before it copies:
        there is one copy in memory at most.
        """
        self.wait()
        self._submit(self._write, step, host_copy(content))

    def mark_best(self, step: int) -> None:
        """Point `best.pt` at the checkpoint of a step, after all writes given so far."""
        self._submit(self._mark_best, step)

    def wait(self) -> None:
        """Return when everything given so far is on the disk, or was warned of."""
        while self._pending:
            concurrent.futures.wait(self._pending[:1])
            self._pending.pop(0).result()

    def close(self) -> None:
        """Finish everything given so far, and take no more."""
        self._thread.shutdown()
        self.wait()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise
            log.exception("writing a checkpoint failed as well")  # the error on its way is the one to see

    def _submit(self, job: Callable[..., None], *arguments: Any) -> None:
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()
        self._pending.append(self._thread.submit(job, *arguments))

    def _write(self, step: int, content: dict[str, Any]) -> None:
        try:
            self.folder.save(step, content)
        except OSError as error:
            self.failed_saves += 1
            if not os.path.exists(self.folder.path_of(step)):  # False also where the disk is gone
                self._failed_steps.add(step)
            log.warning(
                "%s: SAVING FAILED: %s (failed saves: %d). Training goes on; what it learns is lost if it ends before "
                "a save works again. Still whole: %s. Make room in %s or mend the disk; the next save tries again",
                self.folder.path_of(step),
                error,
                self.failed_saves,
                self._whole(),
                self.folder.folder,
            )
            return
        self._failed_steps.discard(step)

    def _mark_best(self, step: int) -> None:
        if step in self._failed_steps:
            reason = f"saving step {step} failed"
        else:
            try:
                self.folder.mark_best(step)
                return
            except OSError as error:
                reason = str(error)
        try:
            best = self.folder.best()
            state = f"stays on {best.name}" if best else "is not there at all"
        except OSError as error:
            state = f"cannot be read: {error}"
        log.warning(
            "%s: STILL NOT THE BEST: it should be step %d, but %s. It %s",
            self.folder.folder / "best.pt",
            step,
            reason,
            state,
        )

    def _whole(self) -> str:
        try:
            return ", ".join(path.name for path in self.folder.files()) or "no checkpoint at all"
        except OSError as error:
            return f"unknown ({error})"


def host_copy(content: Any) -> Any:
    """The same content with memory of its own: tensors on the CPU, of views only what they show."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        copied = copy.copy(content)  # its kind, and what else it carries: a state dict has versions
        for key, value in content.items():
            copied[key] = host_copy(value)
        return copied
    if type(content) in (list, tuple):
        return type(content)(map(host_copy, content))
    return copy.deepcopy(content)
