"""The checkpoints of a run: immutable files, whole or not there, that carry all it needs to go on.

A folder holds `step_00001234.pt` with its checksum beside it, and the links `last.pt` and `best.pt`. What is being
written has another name, `*.partial`, and so has what was found damaged, `*.damaged`.
"""

import itertools
import logging
import os
import re
from pathlib import Path
from typing import Any

from retinanet.checkpoint.file import (
    DamagedCheckpoint,
    checksum_file,
    read_checkpoint,
    sync,
    sync_folder,
    write_checkpoint,
)
from retinanet.errors import InputError, make_folder

log = logging.getLogger(__name__)

CHECKPOINT_NAME = re.compile(r"step_(\d{8,})\.pt")
FILE_OF_CHECKPOINT_NAME = re.compile(r"(step_\d{8,}\.pt)(\.sha256)?")
PARTIAL_NAME = re.compile(r"(step_\d{8,}\.pt(\.sha256)?|(last|best)\.pt)\.partial")


class CheckpointFolder:
    """Writes and finds the checkpoints of one run. One process writes at a time.

    Args:
        keep: how many of the newest stay, besides the best; at least one.
    """

    def __init__(self, folder: Path, *, keep: int):
        assert keep >= 1, keep
        self.folder = folder
        self.keep = keep

    def open_for_writing(self) -> None:
        """Make the folder, and remove what a killed run left half written; nothing else is touched.

        Raises:
            InputError: it cannot be made, or nothing can be written into it.
        """
        make_folder(self.folder)
        for path in self.folder.iterdir():
            if PARTIAL_NAME.fullmatch(path.name):
                path.unlink()

    def save(self, step: int, content: dict[str, Any]) -> Path:
        """Write a checkpoint, point `last.pt` at it, and remove those beyond `keep`.

        The file appears under its name only when it is whole on the disk, its checksum before it, and only then do
        older ones go. After an error there is nothing of it, unless only the links or the removal went wrong.

        Raises:
            OSError: the disk is full, or else cannot be written to.
            TypeError: the content has something in it that `read_checkpoint` would refuse.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path_of(step)
        checksum = checksum_file(path)
        partial, checksum_partial = _partial_file(path), _partial_file(checksum)
        try:
            digest = write_checkpoint(partial, {"step": step, **content})
            with open(checksum_partial, "w") as file:
                file.write(f"{digest}  {path.name}\n")
                sync(file)
            if path.exists():
                # A step saved once more. The old checksum goes first: as long as there is none, the file's own sums
                # vouch for it, the old one as well as the new one.
                checksum.unlink(missing_ok=True)
                sync_folder(self.folder)
                os.replace(partial, path)
                os.replace(checksum_partial, checksum)
            else:
                os.replace(checksum_partial, checksum)
                os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            checksum_partial.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)
        self._link("last.pt", path)
        self._remove_old()
        return path

    def mark_best(self, step: int) -> None:
        """Point `best.pt` at the checkpoint of a step, which must be there."""
        path = self.path_of(step)
        assert path.is_file(), path
        self._link("best.pt", path)
        self._remove_old()

    def last_whole(self) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
        """The newest whole checkpoint and its content, for the one process that is about to write here.

        Damaged ones that are newer are named and set aside, so that the run can write theirs again. Where none is
        whole, nothing is moved.

        Raises:
            InputError: there are checkpoints and none is whole, or the newest one that is whole is not of this
                framework or cannot be read.
        """
        damaged: list[Path] = []
        for path in reversed(self.files()):
            try:
                content = read_checkpoint(path)
            except DamagedCheckpoint as error:
                log.warning("%s; looking for the one before", error)
                damaged.append(path)
                continue
            self._go_back_to(path, damaged)
            return path, content
        if damaged:
            names = ", ".join(path.name for path in reversed(damaged))
            raise InputError(
                f"{self.folder}: holds no whole checkpoint, damaged are {names}; "
                "put a whole copy in place, or start the run again"
            )
        return None, None

    def set_aside_damaged(self, path: Path) -> Path:
        """Rename a checkpoint of this folder to `*.pt.damaged`, with its checksum: kept, but no checkpoint any more."""
        assert path in self.files(), path
        suffixes = itertools.chain([""], (f".{number}" for number in itertools.count(2)))
        aside = next(
            aside for suffix in suffixes if not os.path.lexists(aside := path.with_name(f"{path.name}.damaged{suffix}"))
        )
        path.rename(aside)
        if checksum_file(path).is_file():
            checksum_file(path).rename(checksum_file(aside))
        sync_folder(self.folder)
        return aside

    def path_of(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def files(self) -> list[Path]:
        """All checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        step_of = {path: match for path in self.folder.iterdir() if (match := CHECKPOINT_NAME.fullmatch(path.name))}
        return sorted(step_of, key=lambda path: int(step_of[path][1]))

    def best(self) -> Path | None:
        """What `best.pt` points at, there or not."""
        link = self.folder / "best.pt"
        return self.folder / Path(os.readlink(link)).name if link.is_symlink() else None

    def _go_back_to(self, path: Path, damaged: list[Path]) -> None:
        """Set the damaged ones aside, and mend the links that pointed at them."""
        try:
            for newer in damaged:
                aside = self.set_aside_damaged(newer)
                log.warning("%s: damaged, therefore renamed to %s; going on from %s", newer, aside.name, path.name)
            # Links that lead nowhere may also be from a run killed while it did this.
            if (self.folder / "last.pt").is_symlink() and not (self.folder / "last.pt").exists():
                self._link("last.pt", path)
            best = self.best()
            if best and not best.exists():
                (self.folder / "best.pt").unlink()
                log.warning(
                    "%s: removed, since %s, which it pointed at, is gone; the next best score makes it again",
                    self.folder / "best.pt",
                    best.name,
                )
        except OSError as error:
            raise InputError(
                f"{error.filename or self.folder}: cannot be set aside, though damaged: {error.strerror}; "
                "make the folder writable"
            ) from None

    def _link(self, name: str, path: Path) -> None:
        partial = _partial_file(self.folder / name)
        partial.unlink(missing_ok=True)
        partial.symlink_to(path.name)
        os.replace(partial, self.folder / name)
        sync_folder(self.folder)

    def _remove_old(self) -> None:
        """Checksums whose file a kill left them without go as well."""
        kept = {path.name for path in self.files()[-self.keep :]}
        if best := self.best():
            kept.add(best.name)
        for path in sorted(self.folder.iterdir()):  # a file before its checksum
            match = FILE_OF_CHECKPOINT_NAME.fullmatch(path.name)
            if match and match[1] not in kept:
                path.unlink()


def _partial_file(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
