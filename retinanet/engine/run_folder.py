"""Run folder: the files in it, and checks before a run starts there, replaces an earlier run, or resumes it."""

import json
import shutil
from pathlib import Path

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config
from retinanet.config.facts import may_change_on_resume
from retinanet.config.flat import flat_config
from retinanet.config.load import config_to_yaml
from retinanet.data.fingerprint import check_same_images
from retinanet.data.quarantine import read_paths
from retinanet.engine.environment import write_environment
from retinanet.errors import InputError, make_folder
from retinanet.formats.dataset import Dataset
from retinanet.runtime.distributed import launch_id
from retinanet.runtime.logging import log_to_file
from retinanet.runtime.stop import clear_preempted

CHECKPOINTS = "checkpoints"
UNREADABLE_FILE = "unreadable.jsonl"
MARKER = "environment.json"  # its presence marks a folder as a run folder
RUN_FILES = ("config.yaml", "metrics.jsonl", "log.txt", "tensorboard", CHECKPOINTS)
RESULT_FILES = ("evaluation.json", "detections.json", "profile", "preempted", UNREADABLE_FILE)
RESULT_PATTERNS = ("nonfinite_step_*.pt", "stall_rank*.txt", "failure_rank*.txt")


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Create the run folder, or check that an existing one may be used.

    Raises:
        InputError: the folder contains a run and neither `resume` nor `overwrite` is set, it contains conflicting files
            that do not belong to a run, or it is not writable.
    """
    holds_run = (folder / MARKER).exists()
    others = [name for name in RUN_FILES if (folder / name).exists()]
    if others and not holds_run:
        raise InputError(f"{folder}: contains {others[0]}, but is not a run folder; choose another folder")
    if holds_run and not (resume or overwrite):
        raise InputError(
            f"{folder}: contains a run; continue it with --resume, replace it with --overwrite, or choose another "
            "folder"
        )
    make_folder(folder)


def open_folder(folder: Path, cfg: Config) -> None:
    """Write the config and the environment record, and start the log file.

    Raises:
        InputError: the disk is full or not writable.
    """
    try:
        write_environment(folder / MARKER)  # first: without it, the folder would not be recognised as a run folder
        log_to_file(folder / "log.txt")
        (folder / "config.yaml").write_text(config_to_yaml(cfg), encoding="utf-8")
        clear_preempted(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to: {error.strerror}; free disk space, or choose another folder"
        ) from None


def is_of_this_launch(folder: Path) -> bool:
    """Whether this torchrun launch started or resumed the run in `folder`."""
    try:
        environment = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return environment.get("launch") == launch_id() is not None


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint is in, or its parent folder if it was moved out of a run folder."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def clear_folder(folder: Path) -> None:
    """Remove the files that a run has written, and leave all others alone."""
    reports = [path for pattern in RESULT_PATTERNS for path in folder.glob(pattern)]
    for path in [*(folder / name for name in (*RUN_FILES, *RESULT_FILES, MARKER)), *reports]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_same_run(path: Path, checkpoint: Checkpoint, cfg: Config, data: Dataset, *, folder: Path) -> str | None:
    """Check that training can resume from a checkpoint of the run in `folder` with this config and training set.

    Returns: why the sample order changes, for the log; None if it continues.

    Raises:
        InputError: the classes, the images, or a config key that affects the weights has changed.
    """
    trained_on, now = list(checkpoint.class_names), list(data.class_names)
    if trained_on != now:
        raise InputError(f"{path}: was trained on classes {trained_on[:10]}, data.train has {now[:10]}")
    before, after = flat_config(checkpoint.config), flat_config(cfg)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and not may_change_on_resume(key):
            raise InputError(
                f"{path}: cannot resume with a different {key}: it was {before.get(key)}, now {after.get(key)}; "
                "restore it, or start a new run"
            )
    return check_same_images(
        path, checkpoint.state.get("images"), data, unreadable=read_paths(folder / UNREADABLE_FILE)
    )
