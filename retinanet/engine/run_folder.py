"""The folder of a run: whose it is, what makes its checkpoints usable, and which run may go on in it."""

import json
import shutil
from pathlib import Path
from typing import Any

from retinanet.config import Config
from retinanet.data.coco import CocoData
from retinanet.errors import InputError, make_folder

CHECKPOINTS = "checkpoints"
RUN_FILES = ("config.yaml", "metrics.jsonl", CHECKPOINTS)  # each shows that a folder holds a run
OTHER_FILES = ("environment.json", "log.txt", "tensorboard", "evaluation.json", "detections.json")
# Keys that a resumed run may have another value of, since no result depends on them.
FREE_KEYS = {"log_every", "save_every", "eval_every", "keep_checkpoints", "weights", "num_classes"}


def prepare_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the run folder, or refuse one that holds a run without a word on what to do with it."""
    holds_run = any((folder / name).exists() for name in RUN_FILES)
    if holds_run and overwrite:
        for name in (*RUN_FILES, *OTHER_FILES):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif holds_run and not resume:
        raise InputError(
            f"{folder}: holds a run; go on with --resume, replace it with --overwrite, or name another folder"
        )
    make_folder(folder)


def self_description(cfg: Config, data: CocoData) -> dict[str, Any]:
    """What makes a checkpoint usable by itself. JSON text, since `weights_only` loading refuses records."""
    return {
        "config": cfg.model_dump_json(),
        "class_names": list(data.class_names),
        "category_ids": list(data.category_ids),
    }


def check_same_run(content: dict[str, Any], cfg: Config, data: CocoData, path: Path | None) -> None:
    """A run goes on with the same network, classes and schedule it began with."""
    if content["class_names"] != list(data.class_names):
        raise InputError(f"{path}: was trained on {content['class_names'][:10]}, not on {list(data.class_names)[:10]}")
    before, now = json.loads(content["config"]), json.loads(cfg.model_dump_json())
    for section in ("model", "train"):
        changed = [
            key for key in now[section] if before[section].get(key) != now[section][key] and key not in FREE_KEYS
        ]
        if changed:
            key = changed[0]
            raise InputError(
                f"{path}: cannot go on with another {section}.{key}: it was {before[section].get(key)}, now "
                f"{now[section][key]}; keep it, or start a new run"
            )
