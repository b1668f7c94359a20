"""The folder of a run: whose it is, what makes its checkpoints usable, and which run may go on in it."""

import json
import shutil
from pathlib import Path
from typing import Any

from retinanet.config import Config
from retinanet.config.load import config_from_values
from retinanet.errors import InputError, make_folder
from retinanet.formats.coco import CocoData
from retinanet.runtime.distributed import launch_id

CHECKPOINTS = "checkpoints"
UNREADABLE_FILE = "unreadable.jsonl"
MARKER = "environment.json"  # shows that a folder holds a run
RUN_FILES = ("config.yaml", "metrics.jsonl", "log.txt", "tensorboard", CHECKPOINTS)
RESULT_FILES = ("evaluation.json", "detections.json", "profile", "preempted", UNREADABLE_FILE)
RESULT_PATTERNS = ("nonfinite_step_*.pt", "stall_rank*.txt", "failure_rank*.txt")
# Keys that a resumed run may have another value of, since no weight depends on them. Images may have moved.
FREE_KEYS = {
    *(
        "data.train",
        "data.val",
        "data.workers",
        "data.max_pixels",
        "device",
        "inference",
        "postprocess",
        "model.backbone.weights",
        "model.num_classes",
    ),
    *("data.max_unreadable", "model.backbone.checkpoint_activations"),
    *("train.compile", "train.log_every", "train.save_every", "train.keep_checkpoints", "train.accumulate"),
    *("train.on_nonfinite", "train.max_skipped", "train.allow_local_norm", "train.init_from"),
    *("train.early_stop", "train.eval_batch_size", "train.max_hours", "train.stall_timeout", "train.grace"),
}


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the run folder, or refuse one that holds a run without a word on what to do with it."""
    holds_run = (folder / MARKER).exists()
    others = [name for name in RUN_FILES if (folder / name).exists()]
    if others and not holds_run:
        raise InputError(f"{folder}: holds {others[0]}, and is not the folder of a run; name another folder")
    if holds_run and not (resume or overwrite):
        raise InputError(
            f"{folder}: holds a run; go on with --resume, replace it with --overwrite, or name another folder"
        )
    make_folder(folder)


def is_of_this_launch(folder: Path) -> bool:
    """Whether the run in a folder was begun, or gone on with, by this very start of torchrun."""
    try:
        environment = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return environment.get("launch") == launch_id() is not None


def clear_folder(folder: Path) -> None:
    """Remove the run that a folder holds, and nothing else."""
    reports = [path for pattern in RESULT_PATTERNS for path in folder.glob(pattern)]
    for path in [*(folder / name for name in (*RUN_FILES, *RESULT_FILES, MARKER)), *reports]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def self_description(cfg: Config, data: CocoData) -> dict[str, Any]:
    """What makes a checkpoint usable by itself. JSON text, since `weights_only` loading refuses records."""
    return {
        "config": cfg.model_dump_json(),
        "class_names": list(data.class_names),
        "category_ids": list(data.category_ids),
        "num_images": len(data.records),
    }


def check_same_run(content: dict[str, Any], cfg: Config, data: CocoData, path: Path | None) -> None:
    """A run goes on with the same network, classes and schedule it began with."""
    if content["class_names"] != list(data.class_names):
        raise InputError(f"{path}: was trained on {content['class_names'][:10]}, not on {list(data.class_names)[:10]}")
    if content["num_images"] != len(data.records):
        raise InputError(
            f"{path}: was trained on {content['num_images']} images, data.train has {len(data.records)}; "
            "go on with the same ones, or start a new run"
        )
    # By the schema, so that a key which the checkpoint is older than has its default.
    trained = config_from_values(json.loads(content["config"]), source=f"{path}: config")
    before, now = (flat_config(one) for one in (trained, cfg))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in FREE_KEYS):
            raise InputError(
                f"{path}: cannot go on with another {key}: it was {before.get(key)}, now {now.get(key)}; "
                "keep it, or start a new run"
            )


def flat_config(cfg: Config) -> dict[str, Any]:
    """Its values as JSON has them, with dotted keys."""
    return flat(json.loads(cfg.model_dump_json()))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result
