"""Run folder: one launch at a time starts a run in it, replaces an earlier run, or resumes it."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from retinanet.checkpoint.file import Checkpoint
from retinanet.config import Config
from retinanet.config.facts import may_change_on_resume
from retinanet.config.flat import flat_config
from retinanet.config.load import config_to_yaml
from retinanet.data.build import build_uses
from retinanet.data.fingerprint import check_same_images
from retinanet.data.quarantine import read_paths
from retinanet.engine.environment import write_environment
from retinanet.engine.run_files import (
    CHECKPOINTS,
    CONFIG_FILE,
    LOCK_FILE,
    MARKER,
    RESULT_FILES,
    RESULT_PATTERNS,
    RUN_FILES,
    UNREADABLE_FILE,
    recorded_environment,
)
from retinanet.errors import InputError, make_folder
from retinanet.formats.dataset import Dataset
from retinanet.runtime.distributed import launch_id, on_main
from retinanet.runtime.lock import holder_of, try_lock
from retinanet.runtime.logging import log_to_file
from retinanet.runtime.memory import is_out_of_memory
from retinanet.runtime.stop import clear_preempted

LENGTHS = ("train.epochs", "train.steps")


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Create the run folder, and lock it against other runs for the duration of the `with` block. Collective.

    If invalid input or a lack of memory ends the block before the run has produced results, all files and folders that
    it created are removed.

    Raises:
        InputError: another process trains in the folder, or it is not writable.
    """
    with ExitStack() as stack:
        # Only the main process holds the lock, but all of them raise the error.
        on_main(lambda: stack.enter_context(_claimed(folder)))
        yield


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    existing = {path.name for path in folder.iterdir()}
    with lock_folder(folder):
        try:
            yield
        except Exception as error:
            # After a crash, the folder is kept for its report.
            if (isinstance(error, InputError) or is_out_of_memory(error)) and not _has_results(folder):
                _remove_start(folder, existing, created)
            raise


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock an existing run folder against training for the duration of the `with` block.

    Raises:
        InputError: another process trains in the folder, or it is not writable.
    """
    with ExitStack() as stack:
        try:
            is_free = stack.enter_context(try_lock(folder / LOCK_FILE))
        except OSError as error:
            raise InputError(
                f"{folder / LOCK_FILE}: cannot be locked: {error.strerror}; choose another folder"
            ) from None
        if not is_free:
            raise InputError(
                f"{folder}: another process is training here ({holder_of(folder / LOCK_FILE)}); stop it, wait until "
                "it has finished, or choose another folder"
            )
        yield


def _has_results(folder: Path) -> bool:
    """Whether a run has left results or reports in its folder."""
    metrics = folder / "metrics.jsonl"
    return (
        any(path.exists() for path in _results(folder))
        or any((folder / CHECKPOINTS).glob("*.pt"))
        or (metrics.exists() and metrics.stat().st_size > 0)
    )


def _results(folder: Path) -> list[Path]:
    """Paths of the results and reports that a run may have left in its folder."""
    reports = [path for pattern in RESULT_PATTERNS for path in folder.glob(pattern)]
    return [*(folder / name for name in RESULT_FILES), *reports]


def _remove_start(folder: Path, existing: set[str], created: list[Path]) -> None:
    """Remove the files that a failed start has written, and the folders that it has created if they are empty."""
    with suppress(OSError):
        for name in {*RUN_FILES, MARKER, LOCK_FILE} - existing:
            _remove(folder / name)
        for path in created:
            path.rmdir()


def open_folder(folder: Path, cfg: Config) -> None:
    """Write the config and the environment record, and start the log file.

    Raises:
        InputError: the disk is full or not writable.
    """
    try:
        write_environment(
            folder / MARKER, cfg.custom.described
        )  # first: without it, the folder would not be recognised as a run folder
        log_to_file(folder / "log.txt")
        (folder / CONFIG_FILE).write_text(config_to_yaml(cfg), encoding="utf-8")
        clear_preempted(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to: {error.strerror}; free up disk space, or choose another folder"
        ) from None


def is_of_this_launch(folder: Path) -> bool:
    """Whether this torchrun launch started or resumed the run in `folder`."""
    return recorded_environment(folder).get("launch") == launch_id() is not None


def clear_folder(folder: Path) -> None:
    """Remove the files that a run has written, and no others."""
    for path in [*(folder / name for name in (*RUN_FILES, MARKER)), *_results(folder)]:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_same_parts(folder: Path, cfg: Config) -> None:
    """Check that the run in a folder, if there is one, is resumed with the parts that it got in Python.

    Raises:
        InputError: a part is missing, new, or of another class.
    """
    environment = recorded_environment(folder)
    before, now = environment.get("custom_parts", []), list(cfg.custom.described)
    if environment and before != now:
        raise InputError(
            f"{folder}: the run has {', '.join(before) or 'no'} custom parts, found {', '.join(now) or 'none'}; pass "
            "the same ones to retinanet.train, or start a new run"
        )


def check_same_run(path: Path, checkpoint: Checkpoint, cfg: Config, data: Dataset, *, folder: Path) -> str | None:
    """Check that training can resume from a checkpoint of the run in `folder` with this config and training set.

    Returns the reason why the sample order changes, for the log; None if it does not change.

    Raises:
        InputError: the classes, the images, or a config key that must not change differ from those of the run.
    """
    trained_on, now = list(checkpoint.class_names), list(data.class_names)
    if trained_on != now:
        raise InputError(f"{path}: was trained on classes {trained_on[:10]}, but data.train has {now[:10]}")
    before, after = flat_config(checkpoint.config), flat_config(cfg)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and not may_change_on_resume(key):
            if key in LENGTHS:
                raise InputError(
                    f"{path}: the length of a run is fixed, because its schedule depends on it: it was "
                    f"{_length(before)}, now {_length(after)}; {how_to_extend(path)}"
                )
            raise InputError(
                f"{path}: cannot resume with a different {key}: it was {before.get(key)}, now {after.get(key)}; "
                "restore it, or start a new run"
            )
    uses, unreadable = build_uses(cfg.data, data), read_paths(folder / UNREADABLE_FILE)
    return check_same_images(path, checkpoint.state["images"], data, uses, unreadable=unreadable)


def _length(config: dict[str, Any]) -> str:
    """The length of a run from its flat config, such as "train.epochs=3.0"."""
    return " and ".join(f"{key}={config[key]}" for key in LENGTHS if config.get(key) is not None)


def how_to_extend(checkpoint: Path) -> str:
    """How to train longer than the config of a run specifies."""
    return f"to train longer, start a new run from these weights: train.init_from={checkpoint} --output OTHER_FOLDER"
