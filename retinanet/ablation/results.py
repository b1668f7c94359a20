"""What runs came to, one JSON object a line, and which process has which run."""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import ValidationError

from retinanet.checkpoint.file import sync
from retinanet.config import Config, StrictModel, TrainConfig
from retinanet.config.facts import affects_results
from retinanet.engine.run_folder import flat_config
from retinanet.errors import InputError

RESULTS_FILE = "results.jsonl"
# Raise it when another default of a key changes what a run comes to: results of before are then those of other runs.
DEFAULTS = 1


class RunResult(StrictModel):
    """One run that is over. Its config alone says what it is: rows of several tables may stand on one run."""

    row: str  # that it was made for
    seed: int
    status: Literal["finished", "diverged", "failed"]  # failed: by something that may be mended, and is tried again
    metrics: dict[str, float | None]  # of the evaluation after the last step, 0..1; none where there is no such object
    message: str | None  # why it diverged or failed
    steps: int
    seconds: float
    config_hash: str
    commit: str | None
    computed_on: str  # device and type of the arithmetic, neither of which is always in the config
    versions: dict[str, str]

    @property
    def is_final(self) -> bool:
        return self.status != "failed"


def config_hash(cfg: Config) -> str:
    """The same for two configs that lead to the same result; a key that is new to the schema, left at its default,
    makes no other hash."""
    usual = flat_config(Config(train=TrainConfig(steps=1)))
    del usual["train.steps"]  # has no default that goes for a run
    telling = {
        key: value
        for key, value in flat_config(cfg).items()
        if affects_results(key) and (key not in usual or usual[key] != value)
    }
    return hashlib.sha256(json.dumps([DEFAULTS, telling], sort_keys=True).encode()).hexdigest()[:16]


class ResultsFile:
    """The lines that all processes on a folder write and read."""

    def __init__(self, folder: Path):
        self.path = folder / RESULTS_FILE

    def read(self) -> dict[str, RunResult]:
        """By the hash of the config; of several attempts the last.

        A last line without an end is one that is being written, or was cut off: it counts as none.

        Raises:
            InputError: a whole line is not one of ours.
        """
        if not self.path.exists():
            return {}
        results = {}
        lines = self.path.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                result = RunResult.model_validate_json(line)
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(map(str, problem["loc"]))
                raise InputError(
                    f"{self.path}: line {number} is no result of a run: {where + ': ' if where else ''}"
                    f"{problem['msg']}; delete the line to run it again"
                ) from None
            results[result.config_hash] = result
        return results

    def append(self, result: RunResult) -> None:
        """One whole line, on the disk when this returns; what a killed process left of one is cut off before."""
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            _cut_off_partial_line(file)
            file.write(result.model_dump_json().encode() + b"\n")
            sync(file)


def _cut_off_partial_line(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process has the run of this lock file, until the end of the block; False: another one has.

    The system takes the lock back from a process that dies, however it dies, so that none is left over. The file stays.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # for forked workers that still have the file open
