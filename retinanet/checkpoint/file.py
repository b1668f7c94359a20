"""Checkpoint file: write it with a checksum, and read it without executing code from it."""

import errno
import hashlib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from retinanet.checkpoint.link import follow_link
from retinanet.checkpoint.saved import checksum_file
from retinanet.checkpoint.wrappers import unwrapped
from retinanet.config import Config
from retinanet.config.load import config_from_values
from retinanet.errors import InputError

FORMAT = "retinanet checkpoint 4"
IS_WINDOWS = os.name == "nt"
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # from fsync, if it does not support folders
OLDER_FORMATS = ("retinanet checkpoint 1", "retinanet checkpoint 2", "retinanet checkpoint 3")


class DamagedCheckpoint(InputError):
    """Raised for a checkpoint file that was truncated or changed after it was written."""


class Checkpoint(NamedTuple):
    """Complete state of a training run after a given step, with the metadata needed to use its weights elsewhere."""

    config: Config
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # ids of the classes in the training annotations
    step: int  # number of completed training steps
    state: dict[str, Any]  # state dicts by name: "model", "ema" (None without a moving average), "optimizer", ...
    # Score threshold of each class by label, None for a class that could not be measured. Stored on request after
    # training; training itself never writes any.
    thresholds: tuple[float | None, ...] | None = None

    def weights(self, *, average: bool = True) -> dict[str, Tensor]:
        """State dict of the model.

        Args:
            average: return the moving average of the weights, which evaluation uses, if the run keeps one. If False,
                return the weights of the last step.
        """
        ema = self.state.get("ema")
        return ema["model"] if average and ema else self.state["model"]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint, flush it to disk, check that it can be read back, and return its SHA-256 checksum.

    Raises:
        OSError: the disk is full or not writable.
        TypeError: the state contains an object that `read_checkpoint` would reject.
    """
    content = {
        "format": FORMAT,
        "config": checkpoint.config.model_dump_json(),  # as JSON, because `weights_only` loading rejects custom classes
        "class_names": list(checkpoint.class_names),
        "category_ids": list(checkpoint.category_ids),
        "step": checkpoint.step,
        "state": checkpoint.state,
        "thresholds": None if checkpoint.thresholds is None else list(checkpoint.thresholds),
    }
    with open(path, "wb") as file:
        hashed = _HashedFile(file)
        torch.save(content, hashed)  # type: ignore[arg-type]  # calls only `write` and `flush`
        if hashed.error:
            raise hashed.error
        sync(file)
    try:
        # With the meta device, the data of each tensor is discarded as soon as it has been read.
        torch.load(path, map_location="meta", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise TypeError(f"{path}: cannot be read back: {_why_refused(error)}") from error
    return hashed.sha256.hexdigest()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint with its tensors on the CPU. Never executes code from the file or changes anything on disk.

    Config keys missing from the checkpoint take their default values.

    Raises:
        DamagedCheckpoint: the file was truncated or changed after it was written.
        InputError: the file is missing, unreadable, not a retinanet checkpoint, or in an older format.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"found {type(path).__name__}, expected the path of a checkpoint")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; training writes RUN/checkpoints/last.pt and best.pt")
    try:
        resolved = resolve_checkpoint(path)  # only once, because last.pt may be redirected at any time
        _check_intact(resolved, path)
        content = torch.load(resolved, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; pass another checkpoint") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch.load raises many different types, depending on what is wrong with the file
        raise InputError(
            f"{path}: not a retinanet checkpoint: {_why_refused(error)}; refused to load it; no code was executed; "
            "pass a checkpoint written by `retinanet train`"
        ) from None
    found = content.get("format") if isinstance(content, dict) else None
    if found in OLDER_FORMATS:
        raise InputError(
            f"{path}: found format {found!r}, expected {FORMAT!r}; use the version of retinanet that wrote it, or "
            "train again"
        )
    if found != FORMAT and isinstance(content, dict) and any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            f"{path}: a state dict, expected a {FORMAT!r}, which also contains the config and the class names; pass "
            f"the checkpoint that the weights come from, or start a run from them with train.init_from={path}"
        )
    if found != FORMAT:
        raise InputError(f"{path}: not a {FORMAT!r}; pass a checkpoint written by `retinanet train`")
    return Checkpoint(
        config=config_from_values(json.loads(content["config"]), source=f"{path}: config"),
        class_names=tuple(content["class_names"]),
        category_ids=tuple(content["category_ids"]),
        step=content["step"],
        state=unwrapped(content["state"], source=str(path)),
        thresholds=None if content.get("thresholds") is None else tuple(content["thresholds"]),
    )


def resolve_checkpoint(path: Path) -> Path:
    """Path of the checkpoint file that a path leads to, through symbolic links or a text file that replaces one.

    Raises:
        InputError: the text file names a checkpoint that is not in its folder.
    """
    resolved = path.resolve()
    target = follow_link(resolved)
    if target != resolved and not target.is_file():
        raise InputError(
            f"{path}: points to {target.name}, which is not in the same folder; pass or copy that checkpoint itself"
        )
    return target


def _check_intact(file: Path, named: Path) -> None:
    """Verify a file against its checksum file or, if that was deleted, against the checksums inside the archive.

    Args:
        named: the path as the user wrote it, for error messages.
    """
    checksum = checksum_file(file)
    has_end = _has_end(file)
    truncated = f"it is truncated after {file.stat().st_size} bytes"
    if checksum.is_file() and checksum.read_bytes().split()[:1] != [file_checksum(file).encode()]:
        more = "" if has_end else f", and {truncated}"
        raise DamagedCheckpoint(
            f"{named}: damaged: checksum differs from {checksum.name}{more}; use another checkpoint"
        )
    with open(file, "rb") as opened:
        start = opened.read(4)
    if not has_end:
        if b"PK\3\4".startswith(start):
            raise DamagedCheckpoint(f"{named}: damaged: {truncated}; use another checkpoint")
        kind = "a bare pickle, which could run code" if start.startswith(b"\x80") else "not a torch.save archive"
        raise InputError(
            f"{named}: not a retinanet checkpoint: it is {kind}; refused to load it; no code was executed; "
            "pass a checkpoint written by `retinanet train`"
        )
    if not checksum.is_file() and (problem := _zip_problem(file)):
        raise DamagedCheckpoint(
            f"{named}: damaged: the archive failed its integrity check ({problem}); use another checkpoint"
        )


def _has_end(file: Path) -> bool:
    """Whether the file ends with the central directory of a zip archive."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # there is a directory, but it is invalid
        return True


def _zip_problem(file: Path) -> str | None:
    """Describe the damage found by an archive's own checksums; None if the archive is intact."""
    try:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                return damaged
            # No checksum covers this bit, which marks a record as a folder. If it is set, torch.load returns
            # uninitialised memory.
            return next((record.filename for record in archive.infolist() if record.external_attr & 0x10), None)
    except OSError:
        raise
    except Exception as error:  # a flipped bit can look like encryption or an unknown compression method
        return str(error)


def _why_refused(error: Exception) -> str:
    """Explain in one line why `torch.load` rejected a file."""
    message = str(error)
    if unsafe := re.search(r"GLOBAL (\S+)", message):
        return f"it refers to {unsafe[1]}, but checkpoints contain only plain data"
    paragraphs = message.strip().split("\n\n")
    if paragraphs[0].startswith("Weights only load failed"):  # skip torch's advice, which is unsafe to follow here
        paragraphs = paragraphs[1:]
    return "".join(paragraphs[:1]).strip().split("\n")[0][:160] or type(error).__name__


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(file: Any) -> None:
    """Flush an open file to disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that new, renamed and removed files persist.

    Does nothing where folders cannot be flushed: on Windows, and on some file systems.
    """
    if IS_WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


class _HashedFile:
    """Wrapper for a file opened for writing that computes the checksum of its content as torch.save writes it.

    torch.save writes sequentially, so the checksum can be updated with every write. It would replace an exception
    raised in `write` with a RuntimeError, so the first exception is stored instead, and later writes are ignored.
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
        """Do nothing: `sync` flushes the file afterwards and raises any errors."""
