"""Evaluate a checkpoint on the validation set named in its config."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from retinanet.checkpoint.file import resolve_checkpoint
from retinanet.checkpoint.save import store_thresholds
from retinanet.config import Config
from retinanet.config.custom import check_part, part_name
from retinanet.data.build import load_val_data
from retinanet.data.custom import use_custom_data
from retinanet.engine.evaluate import Evaluation, evaluate_dataset
from retinanet.engine.evaluation_files import write_evaluation, write_metrics
from retinanet.engine.run_files import is_detections_file, is_run_folder, run_folder_of, with_paths_of_run
from retinanet.engine.run_folder import lock_folder
from retinanet.errors import InputError, make_folder
from retinanet.evaluation.coco import score_detections
from retinanet.evaluation.results_file import read_results
from retinanet.evaluation.selection import select_classes, select_detections, select_images
from retinanet.formats.custom import CustomDataset
from retinanet.formats.dataset import Dataset
from retinanet.inference.predictor import Predictor, Weights
from retinanet.losses.class_loss import ClassLoss
from retinanet.losses.custom import check_loss
from retinanet.losses.detection import Criterion
from retinanet.runtime.device import set_determinism
from retinanet.runtime.distributed import is_main, on_main, process_group
from retinanet.runtime.logging import start_logging
from retinanet.runtime.spawn import exit_if_spawned, workers_explained
from retinanet.structures import Detections

log = logging.getLogger(__name__)

OVERRIDES_FOR_BOTH = ("postprocess", "inference", "device")  # of the checkpoints that are compared


class Evaluated(NamedTuple):
    """An evaluation, with all that is needed to analyse it."""

    cfg: Config
    data: Dataset  # the images and objects of the evaluation
    evaluation: Evaluation
    source: dict[str, Any]  # the checkpoint or file and the data, for `evaluation.json`
    other: dict[int, Detections] | None = None  # detections on the same data, to compare with

    @property
    def is_of_network(self) -> bool:
        """Whether a network was evaluated; otherwise a file of detections, whose origin is unknown."""
        return "detections" not in self.source

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics and their source, as in `evaluation.json`."""
        return self.evaluation.metrics_and_classes | self.source

    def of_classes(self, class_names: Sequence[str]) -> "Evaluated":
        """The evaluation of some of the classes; the losses remain those of all classes.

        Raises:
            InputError: there is no such class.
        """
        data = select_classes(self.data, class_names)
        detections = select_detections(self.evaluation.detections, self.data, class_names)
        scores = score_detections(data, detections, max_detections=self.cfg.evaluation.max_detections)
        return self._replace(
            data=data,
            evaluation=Evaluation(scores, detections, self.evaluation.losses),
            other=self.other and select_detections(self.other, self.data, class_names),
        )


def evaluate_checkpoint(
    checkpoint: str | Path,
    overrides: str | Sequence[str] = (),
    *,
    output: str | Path | None = None,
    dataset: CustomDataset | Dataset | None = None,
    model: nn.Module | None = None,
    loss: ClassLoss | Criterion | None = None,
) -> Evaluation | None:
    """Detect objects in the validation set named in a checkpoint's config, and score the detections.

    Relative paths of data that do not exist here are looked up in the folder in which the run was started.

    Without overrides, the scores and losses are those that training recorded for the checkpoint's step.

    Args:
        checkpoint: file written during training, which includes the config and the class names.
        overrides: changes to keys of that config, such as `postprocess.nms_iou=0.6`.
        output: folder for `evaluation.json` (metrics) and `detections.json` (COCO results); None writes no files.
        dataset: the validation set; None: that of the config.
        model, loss: the custom parts that the checkpoint was trained with; see `train`.

    Returns: scores, losses and detections. Under torchrun, the images are divided among the processes, and all
        processes except the main one return None.

    Raises:
        InputError: the checkpoint, an override or the validation set cannot be used, or a custom part is missing.
    """
    evaluated = evaluate_model(checkpoint, overrides, output=output, dataset=dataset, model=model, loss=loss)
    return None if evaluated is None else evaluated.evaluation


def evaluate_model(
    checkpoint: str | Path,
    overrides: str | Sequence[str] = (),
    *,
    output: str | Path | None = None,
    dataset: CustomDataset | Dataset | None = None,
    model: nn.Module | None = None,
    loss: ClassLoss | Criterion | None = None,
    weights: Weights | None = None,
    images: str | None = None,
    against: Path | None = None,
) -> Evaluated | None:
    """Evaluate a checkpoint as `evaluate_checkpoint` does, and return the dataset as well.

    Args:
        dataset, model, loss: see `evaluate_checkpoint`.
        weights: see `Predictor.from_checkpoint`.
        images: the images to use; see `select_images`. None: all.
        against: another checkpoint or detections file; its detections on the same images are returned as well.
            Overrides of `OVERRIDES_FOR_BOTH` apply to that checkpoint, too.
    """
    exit_if_spawned()
    predictor = Predictor.from_checkpoint(checkpoint, overrides, model=model, weights=weights, use_thresholds=False)
    cfg, folder = predictor.cfg, None if output is None else Path(output)
    check_custom_parts(checkpoint, cfg, dataset=dataset, loss=loss)
    if loss is not None:
        check_loss(loss, background_logit=cfg.model.has_background_logit)
    set_determinism(cfg.train.deterministic)  # the algorithms of the run
    with process_group(predictor.device, timeout=cfg.train.stall_timeout), workers_explained():
        start_logging(silent=not is_main())
        cfg = _with_paths_of_run(cfg, Path(checkpoint))
        if dataset is None:
            all_data, annotations = load_val_data(cfg, predictor.class_names), annotations_of(cfg)
        else:
            all_data, annotations = use_custom_data(cfg, dataset, predictor.class_names), [part_name(dataset)]
        chosen = None if images is None else select_images(all_data, images).tolist()
        data = all_data if chosen is None else all_data.subset(chosen)
        if folder is not None:
            on_main(lambda: make_folder(folder))
        evaluation = evaluate_dataset(cfg, predictor.model, data, device=predictor.device, loss=loss)
        source = {
            "checkpoint": str(checkpoint),
            "file": resolve_checkpoint(Path(checkpoint)).name,  # best.pt may lead to another file later
            "weights": weights,
            "overrides": [overrides] if isinstance(overrides, str) else list(overrides),
            "annotations": annotations,
        }
        if evaluation is not None and folder is not None:
            write_evaluation(folder, evaluation, data, source)
        other = None if against is None else _detections_of(against, all_data, chosen, overrides)
    return None if evaluation is None else Evaluated(cfg, data, evaluation, source, other)


def check_custom_parts(
    checkpoint: str | Path,
    cfg: Config,
    *,
    dataset: CustomDataset | Dataset | None = None,
    loss: ClassLoss | Criterion | None = None,
) -> None:
    """Check that an evaluation gets the custom loss and validation set of a run, unless its config names another set.

    Raises:
        InputError: a part is missing.
    """
    call = f"retinanet.evaluate({str(checkpoint)!r}, {'model=..., ' if cfg.custom.model else ''}"
    name = None if loss is None else part_name(loss)
    recorded = cfg.custom.class_loss or cfg.custom.loss
    check_part("loss", recorded, name, source=str(checkpoint), how=f"{call}loss=...)")
    if dataset is None and not cfg.data.has_validation:
        data = cfg.custom.val_data
        check_part("val_data", data, None, source=str(checkpoint), how=f"{call}dataset=...), or set data.val")


def evaluate_file(
    cfg: Config,
    detections: Path,
    *,
    output: Path | None = None,
    images: str | None = None,
    against: Path | None = None,
) -> Evaluated:
    """Score a file of detections, in the COCO results format, on the validation set of a config.

    Args:
        output: folder for `evaluation.json`; None writes no file.
        images, against: see `evaluate_model`.

    Raises:
        InputError: the file or the validation set cannot be used.
    """
    start_logging()
    if output is not None:
        make_folder(output)
    all_data = load_val_data(cfg, None)
    chosen = None if images is None else select_images(all_data, images).tolist()
    data = all_data if chosen is None else all_data.subset(chosen)
    found = _read(detections, all_data, chosen)
    scores = score_detections(data, found, max_detections=cfg.evaluation.max_detections)
    source = {"detections": str(detections), "annotations": annotations_of(cfg)}
    evaluated = Evaluated(cfg, data, Evaluation(scores, found, {}), source)
    if output is not None:
        write_metrics(output, evaluated.metrics)
    if against is None:
        return evaluated
    return evaluated._replace(other=_detections_of(against, all_data, chosen, [f"device={cfg.device}"]))


def _read(file: Path, data: Dataset, chosen: Sequence[int] | None) -> dict[int, Detections]:
    """The detections in a file on the chosen images of a dataset, keyed by position in `chosen`; None: all."""
    found = read_results(file, data)
    if chosen is None:
        return found
    return {position: found[index] for position, index in enumerate(chosen) if index in found}


def annotations_of(cfg: Config) -> list[str]:
    """The paths of the validation set in a config, or the name of one that was passed in Python."""
    if cfg.custom.val_data and not cfg.data.val:
        return [cfg.custom.val_data]
    return [item.annotations for item in cfg.data.val or cfg.data.train]


def _detections_of(
    path: Path, data: Dataset, chosen: Sequence[int] | None, overrides: str | Sequence[str]
) -> dict[int, Detections] | None:
    """The detections of a checkpoint or a file, as `_read` returns them; None on all but the main process.

    Args:
        overrides: those of `OVERRIDES_FOR_BOTH` apply to the checkpoint.
    """
    if is_detections_file(path):
        return _read(path, data, chosen) if is_main() else None
    overrides = [overrides] if isinstance(overrides, str) else overrides
    shared = [override for override in overrides if re.split(r"[.=]", override)[0] in OVERRIDES_FOR_BOTH]
    predictor = Predictor.from_checkpoint(path, shared, use_thresholds=False)
    if set(predictor.class_names) != set(data.class_names):
        raise InputError(
            f"{path}: detects {list(predictor.class_names[:10])}, expected the classes {list(data.class_names[:10])}; "
            "compare models with the same classes"
        )
    own_labels = select_classes(data if chosen is None else data.subset(chosen), predictor.class_names)
    check_custom_parts(path, predictor.cfg, dataset=own_labels)
    evaluation = evaluate_dataset(predictor.cfg, predictor.model, own_labels, device=predictor.device)
    if evaluation is None:
        return None
    label_of = torch.tensor([data.class_names.index(name) for name in predictor.class_names])
    return {index: replace(found, labels=label_of[found.labels]) for index, found in evaluation.detections.items()}


def _with_paths_of_run(cfg: Config, checkpoint: Path) -> Config:
    moved = with_paths_of_run(cfg, run_folder_of(checkpoint))
    paths = [source.annotations for source in moved.data.val or moved.data.train]
    if moved != cfg:
        log.info("using data relative to the folder in which the run was started: %s", ", ".join(paths))
    return moved


def store_in_checkpoint(path: Path, thresholds: Sequence[float | None]) -> Path:
    """Store the score threshold of each class in a checkpoint, and return the path of the file; see `store_thresholds`.

    Raises:
        InputError: the checkpoint cannot be written, or a process is training in its run folder.
    """
    folder = run_folder_of(path.resolve())
    if not is_run_folder(folder):
        return store_thresholds(path, thresholds)
    with lock_folder(folder):
        return store_thresholds(path, thresholds)
