"""Quarantine: the list of images that could not be read in training, limited by a budget."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.dataset import Dataset
from retinanet.structures import Unreadable

log = logging.getLogger(__name__)


class Quarantine:
    """The unreadable images of a run, in a JSON Lines file. The image files are not touched.

    Args:
        file: one JSON object per image. Entries from before a resume count towards the budget.
        budget: maximum number of different images that may be unreadable.

    Raises:
        InputError: `file` cannot be read, or is not such a list.
    """

    def __init__(self, file: Path, *, budget: int):
        self.file = file
        self.budget = budget
        self._paths = _read_paths(file)

    def __len__(self) -> int:
        """Number of different images so far."""
        return len(self._paths)

    def add(self, step: int, unreadable: Iterable[Unreadable], dataset: Dataset) -> None:
        """Record the images that are not in the list yet.

        Args:
            step: of the batch the images were planned for.
            unreadable: their indices are into `dataset`.
            dataset: gives paths and ids.

        Raises:
            InputError: the list exceeds the budget.
        """
        any_unreadable = False
        for entry in unreadable:
            any_unreadable = True
            path, replacement = dataset.paths[entry.index], dataset.paths[entry.replaced_by]
            if path in self._paths:
                continue
            self._paths.add(path)
            line = {
                "path": path,
                "image_id": int(dataset.image_ids[entry.index]),
                "reason": entry.reason,
                "step": step,
                "replaced_by": replacement,
            }
            self._append(json.dumps(line) + "\n", path)
            log.warning("step %d: %s; replaced by %s", step, entry.reason, replacement)
        if any_unreadable and len(self) > self.budget:
            raise InputError(
                f"{self.file}: lists {len(self)} images that cannot be read, expected at most {self.budget} "
                "(data.max_unreadable); restore them and delete the list, remove them from the dataset, or raise "
                "data.max_unreadable"
            )

    def _append(self, line: str, path: str) -> None:
        try:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:  # a full disk must not stop the run
            log.warning("%s: could not be written: %s; %s is missing from it", self.file, error.strerror, path)


def _read_paths(file: Path) -> set[str]:
    """Paths in a list of unreadable images. An incomplete last line, as left by a kill, is removed from the file."""
    try:
        content = file.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            os.truncate(file, len(complete))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; fix its permissions or move it away") from None
    try:
        return {str(json.loads(line)["path"]) for line in complete.splitlines()}
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{file}: is not a list of unreadable images, expected one JSON object with a path per line; move it away"
        ) from None
