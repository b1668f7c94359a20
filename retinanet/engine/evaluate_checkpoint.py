"""Evaluate a checkpoint on the validation set named in its config."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinanet.config import Config
from retinanet.data.build import load_val_data
from retinanet.engine.evaluate import Evaluation, evaluate_dataset
from retinanet.engine.run_files import run_folder_of, with_paths_of_run
from retinanet.errors import make_folder
from retinanet.formats.coco import coco_results
from retinanet.formats.dataset import Dataset
from retinanet.inference.predictor import Predictor
from retinanet.runtime.device import set_determinism
from retinanet.runtime.distributed import is_main, on_main, process_group
from retinanet.runtime.logging import start_logging
from retinanet.runtime.spawn import exit_if_spawned, workers_explained

log = logging.getLogger(__name__)

METRICS_FILE, DETECTIONS_FILE = "evaluation.json", "detections.json"


def evaluate_checkpoint(
    checkpoint: str | Path, overrides: str | Sequence[str] = (), *, output: str | Path | None = None
) -> Evaluation | None:
    """Detect objects in the validation set named in a checkpoint's config, and score the detections.

    Relative paths of data that do not exist here are looked up in the folder in which the run was started.

    Without overrides, the scores and losses are those that training recorded for the checkpoint's step.

    Args:
        checkpoint: file written during training, which includes the config and the class names.
        overrides: changes to keys of that config, such as `postprocess.nms_iou=0.6`.
        output: folder for `evaluation.json` (metrics) and `detections.json` (COCO results); None writes no files.

    Returns: scores, losses and detections. Under torchrun, the images are divided among the processes, and all
        processes except the main one return None.

    Raises:
        InputError: the checkpoint, an override or the validation set cannot be used.
    """
    exit_if_spawned()
    predictor = Predictor.from_checkpoint(checkpoint, overrides)
    cfg, folder = predictor.cfg, None if output is None else Path(output)
    set_determinism(cfg.train.deterministic)  # the algorithms of the run
    with process_group(predictor.device, timeout=cfg.train.stall_timeout), workers_explained():
        start_logging(silent=not is_main())
        cfg = _with_paths_of_run(cfg, Path(checkpoint))
        data = load_val_data(cfg, predictor.class_names)
        if folder is not None:
            on_main(lambda: make_folder(folder))
        evaluation = evaluate_dataset(cfg, predictor.model, data, device=predictor.device)
        if evaluation is not None and folder is not None:
            source = {
                "checkpoint": str(checkpoint),
                "annotations": [item.annotations for item in cfg.data.val or cfg.data.train],
            }
            write_evaluation(folder, evaluation, data, source)
    return evaluation


def _with_paths_of_run(cfg: Config, checkpoint: Path) -> Config:
    moved = with_paths_of_run(cfg, run_folder_of(checkpoint))
    paths = [source.annotations for source in moved.data.val or moved.data.train]
    if moved != cfg:
        log.info("using data relative to the folder in which the run was started: %s", ", ".join(paths))
    return moved


def write_evaluation(folder: Path, evaluation: Evaluation, data: Dataset, source: dict[str, Any]) -> None:
    """Write metrics and detections as JSON; NaN becomes null."""
    metrics = {name: None if math.isnan(value) else value for name, value in evaluation.metrics_and_classes.items()}
    (folder / METRICS_FILE).write_text(json.dumps(metrics | source, indent=2) + "\n", encoding="utf-8")
    by_id = ((data.image_ids[index], detections) for index, detections in sorted(evaluation.detections.items()))
    (folder / DETECTIONS_FILE).write_text(json.dumps(coco_results(by_id, data.category_ids)), encoding="utf-8")
