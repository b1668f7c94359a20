"""Checkpoints: immutable files, whole or not there, that carry all a run needs to go on.

A folder holds `step_00001234.pt` with its checksum beside it, and the links `last.pt` and `best.pt`. What is being
written has another name, `*.partial`, and so has what was found damaged, `*.damaged`.
"""

import hashlib
import itertools
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from retinanet.errors import InputError, make_folder

log = logging.getLogger(__name__)

FORMAT = "retinanet checkpoint 1"
CHECKPOINT_NAME = re.compile(r"step_(\d{8,})\.pt")
FILE_OF_CHECKPOINT_NAME = re.compile(r"(step_\d{8,}\.pt)(\.sha256)?")
PARTIAL_NAME = re.compile(r"(step_\d{8,}\.pt(\.sha256)?|(last|best)\.pt)\.partial")


class DamagedCheckpoint(InputError):
    """A checkpoint whose bytes are not those that were written: cut off, or changed since."""


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
            TypeError: the content has something in it that a checkpoint must not hold.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path_of(step)
        checksum = _checksum_file(path)
        partial, checksum_partial = _partial_file(path), _partial_file(checksum)
        try:
            digest = _write(partial, {"format": FORMAT, "step": step, **content})
            with open(checksum_partial, "w") as file:
                file.write(f"{digest}  {path.name}\n")
                _sync(file)
            if path.exists():
                # A step saved once more. The old checksum goes first: as long as there is none, the file's own sums
                # vouch for it, the old one as well as the new one.
                checksum.unlink(missing_ok=True)
                _sync_folder(self.folder)
                os.replace(partial, path)
                os.replace(checksum_partial, checksum)
            else:
                os.replace(checksum_partial, checksum)
                os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            checksum_partial.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)
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
            if damaged:
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
        if _checksum_file(path).is_file():
            _checksum_file(path).rename(_checksum_file(aside))
        _sync_folder(self.folder)
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
        try:
            for newer in damaged:
                aside = self.set_aside_damaged(newer)
                log.warning("%s: damaged, therefore renamed to %s; going on from %s", newer, aside.name, path.name)
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
        _sync_folder(self.folder)

    def _remove_old(self) -> None:
        """Checksums whose file a kill left them without go as well."""
        kept = {path.name for path in self.files()[-self.keep :]}
        if best := self.best():
            kept.add(best.name)
        for path in sorted(self.folder.iterdir()):  # a file before its checksum
            match = FILE_OF_CHECKPOINT_NAME.fullmatch(path.name)
            if match and match[1] not in kept:
                path.unlink()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of ours, tensors on the CPU. No code in it is run, and nothing on the disk is changed.

    Raises:
        DamagedCheckpoint: it is cut off, or was changed since it was written.
        InputError: it is missing, cannot be read, or is something else, which then is not to be trusted.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; training writes RUN/checkpoints/last.pt and best.pt")
    resolved = path.resolve()  # once: last.pt may point elsewhere a moment later
    try:
        _check_whole(resolved, path)
        content = torch.load(resolved, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; name another checkpoint") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch.load raises a different type for each way a file can be wrong
        raise InputError(
            f"{path}: is not a checkpoint of this framework: {_why_refused(error)}; it is not trusted and nothing in "
            "it was run; name a file that training wrote"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: holds something else than a {FORMAT!r}; name a file that training wrote")
    return content


def _check_whole(file: Path, named: Path) -> None:
    """Hold a file against its checksum or, where that was deleted, against the sums inside it.

    Args:
        named: what the user calls it, for the messages.
    """
    checksum = _checksum_file(file)
    has_end = zipfile.is_zipfile(file)  # the directory of a zip archive is its last part
    cut_off = f"it is cut off after {file.stat().st_size} bytes"
    if checksum.is_file() and checksum.read_bytes().split()[:1] != [file_checksum(file).encode()]:
        more = "" if has_end else f", and {cut_off}"
        raise DamagedCheckpoint(
            f"{named}: is damaged, its checksum differs from {checksum.name}{more}; use another checkpoint"
        )
    with open(file, "rb") as opened:
        start = opened.read(4)
    if not has_end:
        if b"PK\3\4".startswith(start):
            raise DamagedCheckpoint(f"{named}: is not whole, {cut_off}; use another checkpoint")
        kind = "a bare pickle, which could run code" if start.startswith(b"\x80") else "no archive of torch.save"
        raise InputError(
            f"{named}: is not a checkpoint of this framework: it is {kind}; it is not trusted and nothing in it was "
            "run; name a file that training wrote"
        )
    if not checksum.is_file():
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except OSError:
            raise
        except Exception as error:  # a flipped bit in the directory may ask for a password or a method nobody knows
            damaged = str(error)
        if damaged:
            raise DamagedCheckpoint(f"{named}: is damaged, as its own sums show ({damaged}); use another checkpoint")


def _why_refused(error: Exception) -> str:
    message = str(error)
    if unsafe := re.search(r"GLOBAL (\S+)", message):
        return f"it asks for {unsafe[1]}, and ours hold plain data"
    paragraphs = message.strip().split("\n\n")
    if paragraphs[0].startswith("Weights only load failed"):  # advice of torch that nobody should follow here
        paragraphs = paragraphs[1:]
    return "".join(paragraphs[:1]).strip().split("\n")[0][:160] or type(error).__name__


def file_checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _HashedFile:
    """Takes the checksum of what is written, on its way to the file. torch.save writes from front to back.

    An exception in `write` would come out of torch.save as a RuntimeError of its own. So the first one is kept, and
    from then on nothing is written.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> None:
        if self.error is None:
            try:
                self.file.write(data)
                self.sha256.update(data)
            except OSError as error:
                self.error = error

    def flush(self) -> None:
        """Left to the sync that follows, whose error is not hidden."""


def _write(path: Path, content: dict[str, Any]) -> str:
    """Write a file to the disk, see that it can be read again, and return its checksum."""
    with open(path, "wb") as file:
        hashed = _HashedFile(file)
        torch.save(content, hashed)
        if hashed.error:
            raise hashed.error
        _sync(file)
    try:
        # On the meta device each tensor is dropped as soon as it is read.
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:
        raise TypeError(f"{path}: could not be read again, {_why_refused(error)}") from error
    return hashed.sha256.hexdigest()


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _partial_file(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
