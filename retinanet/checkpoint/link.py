"""Links from `last.pt` and `best.pt` to checkpoints in the same folder.

A link is a symbolic link or, where these are not supported (exFAT, Google Drive, Windows without the privilege), a
small text file that contains the name of the checkpoint.
"""

import os
from pathlib import Path

PREFIX = b"retinanet link to "
MAX_SIZE = 200  # bytes; every checkpoint is larger


def write_link(link: Path, target: str, *, partial: Path) -> None:
    """Point a link to a file in the same folder, atomically.

    Args:
        target: name of the file.
        partial: temporary path of the link, used until it is complete.

    Raises:
        OSError: neither a symbolic link nor a file can be written.
    """
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(target)
    except (OSError, NotImplementedError):  # the type depends on the operating system and the file system
        with open(partial, "wb") as file:
            file.write(PREFIX + target.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, link)


def read_link(link: Path) -> str | None:
    """Name of the file that a link points to, whether or not it exists; None if the path is not such a link."""
    if link.is_symlink():
        return Path(os.readlink(link)).name
    if not link.is_file() or link.stat().st_size > MAX_SIZE:
        return None
    content = link.read_bytes()
    return content.removeprefix(PREFIX).decode().strip() if content.startswith(PREFIX) else None


def follow_link(path: Path) -> Path:
    """The file that a link points to, whether or not it exists, or the path itself if it is not a link."""
    target = read_link(path)
    return path if target is None else path.parent / target
