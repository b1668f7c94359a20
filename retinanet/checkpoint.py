"""Checkpoints: immutable files, whole or not there, that carry all a run needs to go on.

A folder holds `step_00001234.pt` with its checksum beside it, and the links `last.pt` and `best.pt`.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import torch

from retinanet.errors import InputError

log = logging.getLogger(__name__)

FORMAT = "retinanet checkpoint 1"


class CheckpointFolder:
    """Writes and finds the checkpoints of one run.

    Args:
        keep: how many of the newest stay, besides the best.
    """

    def __init__(self, folder: Path, *, keep: int):
        self.folder = folder
        self.keep = keep

    def save(self, step: int, content: dict[str, Any]) -> Path:
        """Write a checkpoint, point `last.pt` at it, and remove those beyond `keep`.

        The file appears under its name only when it is whole on the disk, its checksum before it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{step:08d}.pt"
        partial = path.with_suffix(".pt.partial")
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT, "step": step, **content}, file)
            _sync(file)
        with open(_checksum_file(path), "w") as file:
            file.write(f"{file_checksum(partial)}  {path.name}\n")
            _sync(file)
        os.replace(partial, path)
        _sync_folder(self.folder)
        self._link("last.pt", path)
        self._remove_old()
        return path

    def mark_best(self, step: int) -> None:
        """Point `best.pt` at the checkpoint of a step, which must be there."""
        self._link("best.pt", self.folder / f"step_{step:08d}.pt")
        self._remove_old()

    def last_whole(self) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
        """The newest checkpoint that can be read, and its content; damaged ones are named and passed over.

        Raises:
            InputError: there are checkpoints, and none of them can be read.
        """
        problem = None
        for path in reversed(self._files()):
            try:
                return path, read_checkpoint(path)
            except InputError as error:
                problem = error
                log.warning("%s; looking for the one before", error)
        if problem is not None:
            raise problem
        return None, None

    def _files(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return sorted(self.folder.glob("step_????????.pt"))

    def _link(self, name: str, path: Path) -> None:
        partial = self.folder / f"{name}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(path.name)
        os.replace(partial, self.folder / name)
        _sync_folder(self.folder)

    def _remove_old(self) -> None:
        best = self.folder / "best.pt"
        files = self._files()
        kept = set(files[-self.keep :])
        if best.is_symlink():
            kept.add(self.folder / os.readlink(best))
        for path in set(files) - kept:
            path.unlink()
            _checksum_file(path).unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of ours, tensors on the CPU. No code in it is run.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; training writes RUN/checkpoints/last.pt and best.pt")
    resolved = path.resolve()
    checksum = _checksum_file(resolved)
    if checksum.is_file():
        expected = checksum.read_text().split()[:1]
        if expected != [file_checksum(resolved)]:
            raise InputError(f"{path}: is damaged, its checksum differs from {checksum.name}; use another checkpoint")
    try:
        content = torch.load(resolved, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a different type for each way a file can be wrong
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InputError(
            f"{path}: is not a checkpoint of this framework, or not whole ({reason[0][:160]}); "
            "name a file that training wrote"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: holds something else than a {FORMAT!r}; name a file that training wrote")
    return content


def file_checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
