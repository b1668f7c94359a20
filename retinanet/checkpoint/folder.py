"""The checkpoint folder of a run: immutable files that are either complete or absent.

It contains checkpoints such as `step_00001234.pt`, each with a checksum file, and the links `last.pt` and `best.pt`.
Files being written are named `*.partial`, and damaged ones are renamed to `*.damaged`.
"""

import itertools
import logging
import os
import re
from pathlib import Path

from retinanet.checkpoint.file import (
    Checkpoint,
    DamagedCheckpoint,
    read_checkpoint,
    sync_folder,
)
from retinanet.checkpoint.link import read_link, write_link
from retinanet.checkpoint.save import partial_file, save_file
from retinanet.checkpoint.saved import checksum_file, saved_checkpoints
from retinanet.errors import InputError, make_folder

log = logging.getLogger(__name__)

FILE_OF_CHECKPOINT_NAME = re.compile(r"(step_\d{8,}\.pt)(\.sha256)?")
PARTIAL_NAME = re.compile(r"(step_\d{8,}\.pt(\.sha256)?|(last|best)\.pt)\.partial")


class CheckpointFolder:
    """Writes and finds the checkpoints of a run. Only one process may write at a time.

    Args:
        keep: number of most recent checkpoints to keep in addition to the best, at least 1.
    """

    def __init__(self, folder: Path, *, keep: int):
        assert keep >= 1, keep
        self.folder = folder
        self.keep = keep

    def open_for_writing(self) -> None:
        """Create the folder, and remove partial files left by a killed run. Other files are not touched.

        Raises:
            InputError: the folder cannot be created or is not writable.
        """
        make_folder(self.folder)
        for path in self.folder.iterdir():
            if PARTIAL_NAME.fullmatch(path.name):
                path.unlink()

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, point `last.pt` to it, and remove old ones beyond `keep`.

        Older checkpoints are removed only once the new one is complete on disk (see `save_file`). If only updating a
        link or removing an old file fails, the new checkpoint stays.

        Raises:
            OSError: the disk is full or not writable.
            TypeError: the state contains an object that `read_checkpoint` would reject.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path_of(checkpoint.step)
        save_file(path, checkpoint)
        self._link("last.pt", path)
        self._remove_old()
        return path

    def mark_best(self, step: int) -> None:
        """Point `best.pt` to the checkpoint of a step, which must exist."""
        path = self.path_of(step)
        assert path.is_file(), path
        self._link("best.pt", path)
        self._remove_old()

    def check_saved(self, step: int) -> None:
        """Check that the checkpoint of a step was written. Call this once the write has finished.

        Raises:
            InputError: the checkpoint could not be written.
        """
        path = self.path_of(step)
        if not path.exists():
            intact = ", ".join(file.name for file in self.files()) or "none"
            raise InputError(
                f"{path}: could not be written, see the warnings above; intact checkpoints: {intact}. Free disk space, "
                "then resume from the last intact checkpoint with --resume"
            )

    def last_intact(self) -> tuple[Path, Checkpoint] | tuple[None, None]:
        """Return the path and content of the newest intact checkpoint. Only the writing process may call this.

        Newer checkpoints that are damaged are reported and renamed, so that the run can write these steps again. If no
        checkpoint is intact, nothing is renamed.

        Raises:
            InputError: there are checkpoints but none is intact, or the newest undamaged file is unreadable or not a
                retinanet checkpoint.
        """
        damaged: list[Path] = []
        for path in reversed(self.files()):
            try:
                checkpoint = read_checkpoint(path)
            except DamagedCheckpoint as error:
                log.warning("%s; trying the previous one", error)
                damaged.append(path)
                continue
            self._roll_back_to(path, damaged)
            return path, checkpoint
        if damaged:
            names = ", ".join(path.name for path in reversed(damaged))
            raise InputError(
                f"{self.folder}: no intact checkpoint; damaged: {names}; restore one from a copy, or start a new run"
            )
        return None, None

    def rename_damaged(self, path: Path) -> Path:
        """Rename a checkpoint to `*.pt.damaged`, along with its checksum file, so that it is kept but never used."""
        assert path in self.files(), path
        suffixes = itertools.chain([""], (f".{number}" for number in itertools.count(2)))
        names = (path.with_name(f"{path.name}.damaged{suffix}") for suffix in suffixes)
        renamed = next(name for name in names if not os.path.lexists(name))
        path.rename(renamed)
        if checksum_file(path).is_file():
            checksum_file(path).rename(checksum_file(renamed))
        sync_folder(self.folder)
        return renamed

    def path_of(self, step: int) -> Path:
        """Path of the checkpoint of a step, whether or not it exists."""
        return self.folder / f"step_{step:08d}.pt"

    def files(self) -> list[Path]:
        """Paths of all checkpoints, oldest first."""
        return saved_checkpoints(self.folder)

    def best(self) -> Path | None:
        """Target of the link `best.pt`, whether or not the target exists; None if there is no link."""
        target = read_link(self.folder / "best.pt")
        return None if target is None else self.folder / target

    def _roll_back_to(self, path: Path, damaged: list[Path]) -> None:
        """Rename the damaged checkpoints, and repair the links that point to them."""
        try:
            for newer in damaged:
                renamed = self.rename_damaged(newer)
                log.warning("%s: damaged; renamed to %s; resuming from %s", newer, renamed.name, path.name)
            # Links may also dangle because an earlier run was killed at this point.
            last = read_link(self.folder / "last.pt")
            if last and not (self.folder / last).exists():
                self._link("last.pt", path)
            best = self.best()
            if best and not best.exists():
                (self.folder / "best.pt").unlink()
                log.warning(
                    "%s: removed: its target %s no longer exists; recreated at the next improvement",
                    self.folder / "best.pt",
                    best.name,
                )
        except OSError as error:
            raise InputError(
                f"{error.filename or self.folder}: damaged, but cannot be renamed: {error.strerror}; make the folder "
                "writable"
            ) from None

    def _link(self, name: str, path: Path) -> None:
        write_link(self.folder / name, path.name, partial=partial_file(self.folder / name))
        sync_folder(self.folder)

    def _remove_old(self) -> None:
        """Remove checkpoints beyond `keep`, and checksum files that a killed run left behind without a checkpoint."""
        kept = {path.name for path in self.files()[-self.keep :]}
        if best := self.best():
            kept.add(best.name)
        for path in sorted(self.folder.iterdir()):  # removes each checkpoint before its checksum file
            match = FILE_OF_CHECKPOINT_NAME.fullmatch(path.name)
            if match and match[1] not in kept:
                path.unlink()
