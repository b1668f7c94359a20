"""Find the checkpoints in a folder, and the checksum file of each, by name, without importing torch."""

import re
from pathlib import Path

CHECKPOINT_NAME = re.compile(r"step_(\d{8,})\.pt")


def saved_checkpoints(folder: Path) -> list[Path]:
    """Paths of all checkpoints in a folder, oldest first; empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    step_of = {path: match for path in folder.iterdir() if (match := CHECKPOINT_NAME.fullmatch(path.name))}
    return sorted(step_of, key=lambda path: int(step_of[path][1]))


def checksum_file(path: Path) -> Path:
    """Path of the checksum file next to a checkpoint, written in `sha256sum` format."""
    return path.with_name(path.name + ".sha256")
