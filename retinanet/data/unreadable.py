"""Images that could not be read while training: written down, counted, and too many of them refused."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from retinanet.errors import InputError
from retinanet.formats.coco import Record
from retinanet.structures import Unreadable

log = logging.getLogger(__name__)


class Quarantine:
    """The list of a run's unreadable images. The images themselves are left as they are.

    Args:
        file: one JSON line an image. What it holds from before counts, so a run that is resumed goes on counting.
        budget: how many different images may be unreadable.

    Raises:
        InputError: `file` cannot be read, or is something else.
    """

    def __init__(self, file: Path, *, budget: int):
        self.file = file
        self.budget = budget
        self._paths = _paths_in(file)

    def __len__(self) -> int:
        """Different images so far."""
        return len(self._paths)

    def add(self, step: int, unreadable: Iterable[Unreadable], records: Sequence[Record]) -> None:
        """Write down those that are new.

        Args:
            step: of the batch they were meant for.
            records: of the data set that `unreadable` counts in.

        Raises:
            InputError: there are more than the budget allows.
        """
        met = False
        for index, _, replaced_by, reason in unreadable:
            met = True
            record = records[index]
            if record.path in self._paths:
                continue
            self._paths.add(record.path)
            line = {
                "path": record.path,
                "image_id": record.image_id,
                "reason": reason,
                "step": step,
                "replaced_by": records[replaced_by].path,
            }
            self._append(json.dumps(line) + "\n", record.path)
            log.warning("step %d: %s; %s is used in its place", step, reason, records[replaced_by].path)
        if met and len(self) > self.budget:
            raise InputError(
                f"{self.file}: lists {len(self)} images that cannot be read, expected at most {self.budget} "
                "(data.max_unreadable); restore them and delete the list, take them out of the data set, or raise "
                "data.max_unreadable"
            )

    def _append(self, line: str, path: str) -> None:
        try:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:  # a full disk ends no run
            log.warning("%s: CANNOT BE WRITTEN: %s. It lacks %s", self.file, error.strerror, path)


def _paths_in(file: Path) -> set[str]:
    """The images that a list holds. A last line that was cut off, as by a kill, is taken away."""
    try:
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(file, len(whole))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; correct its permissions or move it away") from None
    try:
        return {str(json.loads(line)["path"]) for line in whole.splitlines()}
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{file}: is no list of unreadable images, expected one JSON line with a path for each; move it away"
        ) from None
