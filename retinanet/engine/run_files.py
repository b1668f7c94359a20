"""Find runs and their files, and check whether a run may start, without importing torch."""

import difflib
import json
import os
from pathlib import Path
from typing import Any, Literal

from retinanet.checkpoint.link import follow_link
from retinanet.checkpoint.saved import saved_checkpoints
from retinanet.config import Config, DataSource
from retinanet.errors import InputError
from retinanet.interop.published_config import is_published

CHECKPOINTS = "checkpoints"
CONFIG_FILE = "config.yaml"
LOCK_FILE = "retinanet.lock"  # locked while a process trains in the folder
MARKER = "environment.json"  # its presence marks a folder as a run folder
UNREADABLE_FILE = "unreadable.jsonl"
REPORT_FILE = "report.html"  # page of the last evaluation of a run
RUN_FILES = (CONFIG_FILE, "metrics.jsonl", "log.txt", "tensorboard", "tracking", CHECKPOINTS)
RESULT_FILES = ("evaluation.json", "detections.json", REPORT_FILE, "profile", "preempted", UNREADABLE_FILE)
RESULT_PATTERNS = ("nonfinite_step_*.pt", "stall_rank*.txt", "failure_rank*.txt")

Resume = bool | Literal["auto"]


def is_run_folder(path: Path) -> bool:
    """Whether a run was started in a folder."""
    return (path / MARKER).is_file()


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint is in, or its parent folder if it was moved out of a run folder.

    For a published folder, which belongs to no run, the folder itself.
    """
    if is_published(checkpoint):
        return checkpoint
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def find_run(path: Path) -> Path:
    """Find the run folder for a path: the folder itself, or a file in it, such as its `config.yaml`.

    Raises:
        InputError: the path does not belong to a run.
    """
    folder = path if path.is_dir() else path.parent
    if is_run_folder(folder) and (path.is_dir() or path.is_file()):
        return folder
    inside = run_folder_of(path)
    if path.is_file() and is_run_folder(inside):
        raise InputError(f"{path}: is a checkpoint, expected a run folder; pass {inside}")
    if path.exists():
        raise InputError(f"{path}: not a run folder: there is no {MARKER}; pass a folder written by `retinanet train`")
    runs = [str(other.parent) for other in path.parent.glob(f"*/{MARKER}")]
    near = difflib.get_close_matches(str(path), runs, 1) or runs[:1]
    hint = f"did you mean {near[0]}?" if near else "pass a folder written by `retinanet train`"
    raise InputError(f"{path}: no such run folder; {hint}")


def find_checkpoint(path: Path) -> Path:
    """Find the checkpoint for a path.

    It is the file or the published folder itself, or the best (otherwise the last) checkpoint of a run folder.

    Raises:
        InputError: there is no such file or folder, or the folder is neither a run folder nor a published one, or has
            no checkpoint.
    """
    if path.is_file() or is_published(path):
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such checkpoint; pass a run folder, or a file such as RUN/checkpoints/best.pt")
    folder = path if path.name == CHECKPOINTS else find_run(path) / CHECKPOINTS
    named = [folder / name for name in ("best.pt", "last.pt") if follow_link(folder / name).is_file()]
    found = [*named, *reversed(saved_checkpoints(folder))]
    if not found:
        raise InputError(f"{path}: contains no checkpoint; pass another run folder, or a checkpoint")
    return found[0]


def is_detections_file(path: Path) -> bool:
    """Whether a path names a file of detections, in the COCO results format, and not a checkpoint or a run folder."""
    return path.suffix == ".json" and not path.is_dir()


def recorded_environment(folder: Path) -> dict[str, Any]:
    """The environment record of the run in a folder; empty if it is missing or unreadable."""
    try:
        record = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def started_in(folder: Path) -> Path | None:
    """The working directory in which the run in a folder was started or last resumed; None if unknown."""
    started = recorded_environment(folder).get("folder")
    return Path(started) if isinstance(started, str) else None


def with_paths_of_run(cfg: Config, folder: Path) -> Config:
    """Look up data in the working directory of the run in a folder, if it is not in the current one.

    A source is redirected as a whole, if none of its relative paths exists here and all of them exist there.
    """
    started = started_in(folder)
    if started is None:
        return cfg
    sources = {
        part: tuple(_source_from(started, source) for source in getattr(cfg.data, part)) for part in ("train", "val")
    }
    return cfg.model_copy(update={"data": cfg.data.model_copy(update=sources)})


def _source_from(started: Path, source: DataSource) -> DataSource:
    given = {"annotations": source.annotations, "images": source.images}
    relative = {name: path for name, path in given.items() if path is not None and not os.path.isabs(path)}
    moved = {name: str(started / path) for name, path in relative.items()}
    if any(map(os.path.exists, relative.values())) or not all(map(os.path.exists, moved.values())):
        return source
    return source.model_copy(update=moved)


def check_folder(folder: Path, *, resume: Resume, overwrite: bool) -> None:
    """Check that a run may start in an existing folder, or resume there.

    Raises:
        InputError: there is nothing to resume, the folder contains a run and neither `resume` nor `overwrite` is set,
            or it contains conflicting files that do not belong to a run.
    """
    holds_run = is_run_folder(folder)
    others = [name for name in RUN_FILES if (folder / name).exists()]
    if others and not holds_run:
        raise InputError(f"{folder}: contains {others[0]}, but is not a run folder; choose another folder")
    has_checkpoint = bool(saved_checkpoints(folder / CHECKPOINTS))
    if resume is True and not has_checkpoint:
        advice = "start it again with --overwrite" if holds_run else "start a run without --resume"
        raise InputError(
            f"{folder}: there is no checkpoint to resume from; {advice}, or use --resume=auto, which starts a run if "
            "there is none"
        )
    if holds_run and not (resume or overwrite):
        advice = f"continue it with --resume {folder}" if has_checkpoint else "it has not saved a checkpoint"
        raise InputError(f"{folder}: contains a run; {advice}, replace it with --overwrite, or choose another folder")
