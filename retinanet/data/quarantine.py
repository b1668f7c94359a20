"""Quarantine: the list of images that training could not read, limited by a budget."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.structures import Unreadable

log = logging.getLogger(__name__)


class Quarantine:
    """The unreadable images of a run, recorded in a JSON Lines file. Image files are not modified.

    Args:
        file: JSON Lines file with one object per image. Entries from before a resume count towards the budget.
        budget: maximum number of distinct unreadable images in the dataset.

    Raises:
        InputError: `file` cannot be read, or is not a list of unreadable images.
    """

    def __init__(self, file: Path, *, budget: int):
        self.file = file
        self.budget = budget
        self._paths = read_paths(file)
        _remove_incomplete_line(file)

    def __len__(self) -> int:
        """Number of distinct images so far."""
        return len(self._paths)

    def add(self, unreadable: Sequence[tuple[int, Unreadable]], dataset: Dataset) -> None:
        """Record the images that are not in the list yet.

        Args:
            unreadable: for each image, the training step whose batch needed it, and the image, identified by its index
                into `dataset`.
            dataset: provides the paths and ids of the images.

        Raises:
            InputError: the list contains more of the dataset's images than the budget allows.
        """
        for step, entry in unreadable:
            path, replacement = dataset.paths[entry.index], dataset.paths[entry.replaced_by]
            if path in self._paths:
                continue
            self._paths.add(path)
            line = {
                "path": path,
                "image_id": dataset.image_ids[entry.index],
                "reason": entry.reason,
                "step": step,
                "replaced_by": replacement,
            }
            self._append(json.dumps(line) + "\n", path)
            log.warning("step %d: %s; replaced by %s", step, entry.reason, replacement)
        if not unreadable:
            return
        listed = sum(path in self._paths for path in dataset.paths)  # excludes images that were removed before a resume
        if listed > self.budget:
            raise InputError(
                f"{self.file}: lists {listed} images that cannot be read, expected at most {self.budget} "
                "(data.max_unreadable); restore them and delete the list, remove them from the dataset, or raise "
                "data.max_unreadable"
            )

    def _append(self, line: str, path: str) -> None:
        try:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:  # a full disk must not stop the run
            log.warning("%s: could not be written: %s; %s is not listed there", self.file, error.strerror, path)


def read_paths(file: Path) -> set[str]:
    """Read the paths in a list of unreadable images. Ignore an incomplete last line; return no paths without a file.

    Raises:
        InputError: `file` cannot be read, or is not a list of unreadable images.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; fix its permissions, or move the file") from None
    try:
        return {str(json.loads(line)["path"]) for line in content[: content.rfind(b"\n") + 1].splitlines()}
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{file}: not a list of unreadable images: each line must be a JSON object with a path; move or rename "
            "the file"
        ) from None


def _remove_incomplete_line(file: Path) -> None:
    """Remove an incomplete last line, left by a killed process."""
    if file.exists():
        content = file.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(file, complete)
