"""Predict on images and videos, and write the results so that none is lost when the process stops."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinanet.config.load import is_overridden
from retinanet.errors import InputError, make_folder
from retinanet.inference.predictor import Predictor
from retinanet.inference.thresholds import DEFAULT_THRESHOLD
from retinanet.prediction.journal import Journal, crops_in
from retinanet.prediction.outputs import ImageFormat, OutputFolder, Outputs
from retinanet.prediction.plan import Plan, plan_prediction
from retinanet.prediction.run import Prediction, Run
from retinanet.prediction.settings import check_same, settings_of
from retinanet.prediction.writers.video import check_encoder
from retinanet.runtime.console import counted
from retinanet.runtime.lock import holder_of, try_lock
from retinanet.visualization.fonts import missing_characters

log = logging.getLogger(__name__)

LOCK_FILE = ".predict.lock"


def predict(
    checkpoint: str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    overrides: str | Sequence[str] = (),
    *,
    recursive: bool = False,
    limit: int | None = None,
    min_score: float | None = None,
    draw: bool = True,
    labels: bool = True,
    image_format: ImageFormat = "png",
    crops: bool = False,
    yolo: bool = False,
    batch_size: int = 8,
    overwrite: bool = False,
    frames_per_second: float | None = None,
) -> Prediction:
    """Detect objects in image and video files, and write the results into a folder.

    Results are written as they are produced. If the process stops, the same call continues, and the files are the
    same as without the interruption. An image or video that cannot be read is reported in the result and tried again by
    the next call; the frames before the damage have results.

    Args:
        checkpoint: a checkpoint file, or a published folder.
        inputs: one or several image or video files, folders or glob patterns.
        output: folder for the results. Files that were not written by a prediction are never overwritten.
        overrides: config overrides.
        recursive: search subfolders, whose structure is repeated in the output folder.
        limit: use only the first images and videos.
        min_score: score from which objects are drawn, counted and written, 0..1. None: the threshold of each class that
            the checkpoint has stored, or `postprocess.min_score` if an override sets it, or else 0.3.
        draw: write the images and videos with their detections drawn on them.
        labels: draw class names and scores.
        image_format: format of drawn images and crops, "png" or "jpg".
        crops: also write an image of each object.
        yolo: also write a YOLO label file for each image and each frame.
        batch_size: images per batch.
        overwrite: discard the earlier results in the folder.
        frames_per_second: use only this many frames of a video per second, see `open_video`. None: every frame.

    Raises:
        InputError: an input does not exist, another file would be overwritten, the folder contains results with
            other settings, or the package that reads videos is missing.
        PredictionInterrupted: on Ctrl-C.
    """
    if min_score is not None and not 0 <= min_score <= 1:
        raise InputError(f"min_score: found {min_score}, expected a number from 0 to 1")
    outputs = Outputs(draw=draw, labels=labels, image_format=image_format, crops=crops, yolo=yolo)
    predictor = Predictor.from_checkpoint(Path(checkpoint), overrides, use_thresholds=min_score is None)
    plan = plan_prediction(
        inputs,
        output,
        recursive=recursive,
        limit=limit,
        outputs=outputs,
        band_files=predictor.cfg.data.band_files,
        frames_per_second=frames_per_second,
    )
    return run_plan(
        plan,
        predictor,
        Path(checkpoint),
        overrides,
        min_score=min_score,
        batch_size=batch_size,
        overwrite=overwrite,
    )


def run_plan(
    plan: Plan,
    predictor: Predictor,
    checkpoint: Path,
    overrides: str | Sequence[str],
    *,
    min_score: float | None,
    batch_size: int,
    overwrite: bool,
) -> Prediction:
    """Run a planned prediction; see `predict`.

    Args:
        predictor: of this checkpoint, with these overrides; uses the stored thresholds if `min_score` is None.

    Raises:
        InputError: see `predict`.
        PredictionInterrupted: on Ctrl-C.
    """
    thresholds = _thresholds(predictor, overrides, min_score)
    settings = settings_of(checkpoint, predictor.cfg, thresholds, plan.outputs, plan.frames_per_second)
    if plan.outputs.draw and plan.outputs.labels and (missing := missing_characters(predictor.class_names)):
        log.info(
            "note: no font on this computer shows %s, drawn as ?; install the fonts DejaVu Sans or Noto Sans",
            "".join(sorted(missing)),
        )
    if plan.videos and plan.outputs.draw:
        check_encoder()
    make_folder(plan.folder)
    with try_lock(plan.folder / LOCK_FILE) as is_ours:
        if not is_ours:
            holder = holder_of(plan.folder / LOCK_FILE)
            raise InputError(
                f"{plan.folder}: {holder} is predicting into this folder; wait, or choose another --output"
            )
        journal = Journal(plan.folder)
        plan.check(journal)
        folder = OutputFolder(plan.folder)
        _begin(plan, journal, folder, settings, overwrite=overwrite)
        try:
            return Run(plan, predictor, thresholds, journal, folder).run(batch_size)
        finally:
            journal.close()


def _thresholds(predictor: Predictor, overrides: str | Sequence[str], min_score: float | None) -> tuple[float, ...]:
    """The score from which detections are in the results, by label."""
    if predictor.thresholds is not None:
        return predictor.thresholds
    limit = predictor.cfg.postprocess.min_score
    if min_score is None:
        min_score = limit if is_overridden(overrides, "postprocess.min_score") else DEFAULT_THRESHOLD
    elif min_score < limit:
        log.info(
            "note: postprocess.min_score is %g, so there are no detections with a score from %g to %g; to get them, "
            "add postprocess.min_score=%g",
            *(limit, min_score, limit, min_score),
        )
    return (max(min_score, limit),) * len(predictor.class_names)


def _begin(plan: Plan, journal: Journal, folder: OutputFolder, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Start the journal or check that it can be continued, and record the names of the output files in it."""
    if journal.settings is not None and overwrite:
        for name in sorted({*journal.names, *crops_in(journal.records())}):
            folder.remove(name)
    if journal.settings is None or overwrite:
        journal.start(settings, plan.names())
        return
    check_same(plan.folder, journal.settings, settings)
    paths = {file.path for file in plan.images + plan.videos}
    others = sum(path not in paths for path in journal.paths_with_results())
    if others and not any(path in journal for path in paths):
        found = counted(others, "other image or video", "other images or videos")
        raise InputError(
            f"{plan.folder}: contains the results of {found}; choose another --output, or start over with --overwrite"
        )
    if others:
        log.info(
            "note: %s also has results of images or videos that are not among the inputs (%d): detections.json and the "
            "tables do not include them",
            *(plan.folder, others),
        )
    journal.claim(plan.names())
