"""Results of runs in a JSON Lines file."""

import fcntl
import hashlib
import json
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import ValidationError

from retinanet.checkpoint.file import sync
from retinanet.config import Config, StrictModel, TrainConfig
from retinanet.config.facts import affects_results
from retinanet.config.flat import flat_config
from retinanet.errors import InputError

RESULTS_FILE = "results.jsonl"
# Increment when a change makes the same config give different results (for example, a changed default), so that
# earlier results are not reused. Since version 2, every image is used exactly once per epoch, in a different order.
RESULTS_VERSION = 2


class RunResult(StrictModel):
    """The result of one run, identified by the hash of its config, so that rows of several tables can share it."""

    row: str  # the row for which the run was started
    seed: int
    status: Literal["finished", "diverged", "failed"]  # failed: the cause may be fixable, so the run is repeated
    metrics: dict[str, float | None]  # from the final evaluation, 0..1; None if there are no matching objects
    message: str | None  # why the run diverged or failed
    steps: int
    seconds: float
    config_hash: str
    commit: str | None
    computed_on: str  # device and dtype, which may be `auto` in the config
    versions: dict[str, str]

    @property
    def is_final(self) -> bool:
        return self.status != "failed"


# Current key -> the name used for hashing: renaming a key must not change the hash of recorded results.
HASHED_NAMES = {
    "data.resize.bucket_aspects": "data.resize.canvas_aspects",
    "model.backbone.name": "model.backbone",
    "model.backbone.weights": "model.weights",
    "model.backbone.norm": "model.norm",
    "model.backbone.frozen_stages": "model.frozen_stages",
    "model.backbone.checkpoint_activations": "model.checkpoint_activations",
}


def config_hash(cfg: Config, *, version: int = RESULTS_VERSION) -> str:
    """Hash the config keys that affect the result of a run, and the version of the results.

    Keys set to their defaults are excluded, so adding a key to the schema does not change the hash of earlier configs.
    """
    defaults = flat_config(Config(train=TrainConfig(steps=1)))
    del defaults["train.steps"]  # has no default
    values = flat_config(cfg)
    for part in ("train", "val"):
        sources = getattr(cfg.data, part)
        values[f"data.{part}"] = [source.model_dump(mode="json", exclude_defaults=True) for source in sources]
    relevant = {
        HASHED_NAMES.get(key, key): value
        for key, value in values.items()
        if affects_results(key) and (key not in defaults or defaults[key] != value)
    }
    return hashlib.sha256(json.dumps([version, relevant], sort_keys=True).encode()).hexdigest()[:16]


class ResultsFile:
    """The results file in a folder, which several processes can read and append to."""

    def __init__(self, folder: Path):
        self.path = folder / RESULTS_FILE

    def read(self) -> dict[str, RunResult]:
        """Read the results by config hash. If a run was attempted several times, the last attempt counts.

        A last line without a line break is incomplete and is ignored.

        Raises:
            InputError: a complete line is not a valid result.
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
                    f"{self.path}: line {number} is not a valid result: {where + ': ' if where else ''}"
                    f"{problem['msg']}; delete it to repeat that run"
                ) from None
            results[result.config_hash] = result
        return results

    def append(self, result: RunResult) -> None:
        """Append one line and sync it to disk, after removing any partial line left by a killed process."""
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            _cut_off_partial_line(file)
            file.write(result.model_dump_json().encode() + b"\n")
            sync(file)


def _cut_off_partial_line(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
