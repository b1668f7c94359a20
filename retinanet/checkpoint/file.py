"""One checkpoint as a file: written with its checksum, read without trust."""

import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from retinanet.errors import InputError

FORMAT = "retinanet checkpoint 2"


class DamagedCheckpoint(InputError):
    """A checkpoint whose bytes are not those that were written: cut off, or changed since."""


def write_checkpoint(path: Path, content: dict[str, Any]) -> str:
    """Write a file through to the disk, see that it can be read again, and return its checksum.

    Raises:
        OSError: the disk is full, or else cannot be written to.
        TypeError: the content has something in it that `read_checkpoint` would refuse.
    """
    with open(path, "wb") as file:
        hashed = _HashedFile(file)
        torch.save({"format": FORMAT, **content}, hashed)
        if hashed.error:
            raise hashed.error
        sync(file)
    try:
        # On the meta device each tensor is dropped as soon as it is read.
        torch.load(path, map_location="meta", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise TypeError(f"{path}: could not be read again, {_why_refused(error)}") from error
    return hashed.sha256.hexdigest()


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


def weights_to_predict_with(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of a checkpoint: the averaged ones where the run has an average, as they are what it evaluates."""
    return content["ema"]["model"] if content.get("ema") else content["model"]


def _check_whole(file: Path, named: Path) -> None:
    """Hold a file against its checksum or, where that was deleted, against the sums inside it.

    Args:
        named: what the user calls it, for the messages.
    """
    checksum = checksum_file(file)
    has_end = _has_end(file)
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
    if not checksum.is_file() and (problem := _zip_problem(file)):
        raise DamagedCheckpoint(f"{named}: is damaged, as its own sums show ({problem}); use another checkpoint")


def _has_end(file: Path) -> bool:
    """Whether the directory of a zip archive, which is its last part, is there."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # it is, and has nonsense in it
        return True


def _zip_problem(file: Path) -> str | None:
    """What is wrong with an archive by its own sums, in words."""
    try:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                return damaged
            # No sum covers this bit. It says that a record is a folder, and torch.load then returns what was in memory.
            return next((record.filename for record in archive.infolist() if record.external_attr & 0x10), None)
    except OSError:
        raise
    except Exception as error:  # with a flipped bit the directory may ask for a password, or a method nobody knows
        return str(error)


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


def checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
