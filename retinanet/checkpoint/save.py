"""Save one checkpoint file, so that it is either complete or absent, and change the thresholds stored in one."""

import os
from collections.abc import Sequence
from pathlib import Path

from retinanet.checkpoint.file import (
    Checkpoint,
    read_checkpoint,
    resolve_checkpoint,
    sync,
    sync_folder,
    write_checkpoint,
)
from retinanet.checkpoint.saved import checksum_file
from retinanet.errors import InputError


def save_file(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and its checksum file, replacing those of the same name.

    The checkpoint gets its final name only once it is complete on disk and can be read back. If writing fails, no part
    of it remains, and a file that it would have replaced is unchanged.

    Raises:
        OSError: the disk is full or not writable.
        TypeError: the state contains an object that `read_checkpoint` would reject.
    """
    checksum = checksum_file(path)
    partial, checksum_partial = partial_file(path), partial_file(checksum)
    try:
        digest = write_checkpoint(partial, checkpoint)
        with open(checksum_partial, "w", encoding="utf-8") as file:
            file.write(f"{digest}  {path.name}\n")
            sync(file)
        if path.exists():
            # Remove the old checksum file first: without it, readers rely on the checksums inside the archive, which
            # are valid for both the old file and the new one.
            checksum.unlink(missing_ok=True)
            sync_folder(path.parent)
            os.replace(partial, path)
            os.replace(checksum_partial, checksum)
        else:
            os.replace(checksum_partial, checksum)
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        checksum_partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def store_thresholds(path: Path, thresholds: Sequence[float | None]) -> Path:
    """Store the score threshold of each class in a checkpoint, and return the path of the file that was replaced.

    Links to the file, such as `best.pt`, stay as they are. Its other contents do not change. No process may be training
    in its folder.

    Args:
        path: checkpoint, or a link to it.
        thresholds: by label; None for a class that could not be measured.

    Raises:
        DamagedCheckpoint: the file was truncated or changed after it was written.
        InputError: the file is not a checkpoint, has another number of classes, or cannot be written.
    """
    file = resolve_checkpoint(path)
    checkpoint = read_checkpoint(file)
    if len(thresholds) != len(checkpoint.class_names):
        raise InputError(f"{path}: has {len(checkpoint.class_names)} classes, found {len(thresholds)} thresholds")
    try:
        save_file(file, checkpoint._replace(thresholds=tuple(thresholds)))
    except OSError as error:
        raise InputError(
            f"{file}: the thresholds cannot be stored: {error.strerror or error}; the checkpoint is intact; free "
            "disk space, or make its folder writable"
        ) from None
    return file


def partial_file(path: Path) -> Path:
    """Name of a file until it is complete."""
    return path.with_name(path.name + ".partial")
