"""Lock files that the operating system releases no matter how the process holding them exits."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

log = logging.getLogger(__name__)

WINDOWS_BYTE = 1 << 30  # the byte that is locked on Windows, where other processes cannot read a locked byte


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock on a file within a `with` block; yield False if another process holds it.

    The file is kept; it names the process that holds or last held the lock. On a file system without locks, this logs a
    warning and yields True.
    """
    file = _lock(path)
    if file is None:
        yield False
        return
    if hasattr(os, "register_at_fork"):
        # The lock belongs to the open file, so a forked data loading worker that outlives this process would keep it.
        os.register_at_fork(after_in_child=file.close)
    try:
        yield True
    finally:
        with suppress(OSError):  # closing the file also releases the lock
            _release(file)
        file.close()


def holder_of(path: Path) -> str:
    """The process that holds or last held a lock, such as "process 123 on node7"."""
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"


def _lock(path: Path) -> BinaryIO | None:
    """Open and lock a file; None if another process holds its lock."""
    while True:
        file = open(path, "ab", buffering=0)
        try:
            _acquire(file)
        except (BlockingIOError, PermissionError):  # the type depends on the operating system
            file.close()
            return None
        except OSError as error:
            log.warning("%s: cannot be locked (%s): make sure that no other process uses this folder", path, error)
        if _is_at(path, file):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        file.close()  # the previous holder removed the file in the meantime


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


if os.name == "nt":

    def _acquire(file: BinaryIO) -> None:
        file.seek(WINDOWS_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _release(file: BinaryIO) -> None:
        file.seek(WINDOWS_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _acquire(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
