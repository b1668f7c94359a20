"""Write checkpoints in a background thread while training continues."""

import concurrent.futures
import copy
import logging
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from retinanet.checkpoint.file import Checkpoint
from retinanet.checkpoint.folder import CheckpointFolder

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes checkpoints in a background thread, in the order they were saved, so training does not wait for the disk.

    If the disk is full or not writable, a warning is logged and training continues. Any other error in the thread is a
    bug, and the next call raises it. Unless the process is killed, a write in progress finishes before the process
    exits, because Python joins the thread.

    Use it as a context manager, which calls `close` on exit. The constructor removes partial files left by a killed
    run.
    """

    def __init__(self, folder: CheckpointFolder):
        folder.open_for_writing()
        self.folder = folder
        self.failed_saves = 0  # number of failed saves so far; covers all saves only after `wait`
        self._failed_steps: set[int] = set()
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: list[concurrent.futures.Future[None]] = []

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the state to host memory, and queue it for writing.

        The caller may modify the state once this returns. The previous write must finish before the state is copied, so
        there is never more than one copy in memory.
        """
        self.wait()
        self._submit(self._write, checkpoint._replace(state=host_copy(checkpoint.state)))

    def mark_best(self, step: int) -> None:
        """Point `best.pt` to the checkpoint of a step, once all earlier writes have finished."""
        self._submit(self._mark_best, step)

    def wait(self) -> None:
        """Wait until every queued write has reached the disk or failed with a warning."""
        while self._pending:
            concurrent.futures.wait(self._pending[:1])
            self._pending.pop(0).result()

    def close(self) -> None:
        """Finish all queued writes and stop accepting new ones."""
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
            log.exception("writing a checkpoint also failed")  # only log this one, so that the first error propagates

    def _submit(self, job: Callable[..., None], *arguments: Any) -> None:
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()
        self._pending.append(self._thread.submit(job, *arguments))

    def _write(self, checkpoint: Checkpoint) -> None:
        path = self.folder.path_of(checkpoint.step)
        try:
            self.folder.save(checkpoint)
        except OSError as error:
            self.failed_saves += 1
            if not os.path.exists(path):  # also False if the disk was removed
                self._failed_steps.add(checkpoint.step)
            log.warning(
                "%s: could not save the checkpoint: %s (failed saves: %d). Training continues; progress is lost if the "
                "run stops before the next successful save. Intact: %s. Free disk space in %s or repair the disk; the "
                "next save will retry",
                path,
                error,
                self.failed_saves,
                self._intact(),
                self.folder.folder,
            )
            return
        self._failed_steps.discard(checkpoint.step)

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
            state = f"still points to {best.name}" if best else "does not exist"
        except OSError as error:
            state = f"cannot be read: {error}"
        log.warning(
            "%s: not updated: step %d is better, but %s; best.pt %s",
            self.folder.folder / "best.pt",
            step,
            reason,
            state,
        )

    def _intact(self) -> str:
        try:
            return ", ".join(path.name for path in self.folder.files()) or "none"
        except OSError as error:
            return f"unknown ({error})"


def host_copy(content: Any) -> Any:
    """Deep copy with all tensors on the CPU. A view is copied without the rest of its storage."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        copied = copy.copy(content)  # preserves type and attributes, such as the version metadata of a state dict
        for key, value in content.items():
            copied[key] = host_copy(value)
        return copied
    if type(content) in (list, tuple):
        return type(content)(map(host_copy, content))
    return copy.deepcopy(content)
