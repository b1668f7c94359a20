"""Publish a checkpoint: its weights, its config, and a model card made from the records of its run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from retinanet.checkpoint.file import Checkpoint, read_checkpoint, resolve_checkpoint
from retinanet.engine.evaluation_files import METRICS_FILE
from retinanet.engine.metrics_log import read_metrics
from retinanet.engine.run_files import recorded_environment, run_folder_of
from retinanet.errors import InputError
from retinanet.interop.published import write_published
from retinanet.interop.published_config import FILES
from retinanet.report.model_card import render_card
from retinanet.report.scores import CardScores, scores_of_evaluation, scores_of_training


class Publication(NamedTuple):
    """Summary of a published folder."""

    folder: Path
    sizes: dict[str, int]  # bytes of each file, by name
    checkpoint_size: int  # bytes
    scores: CardScores | None  # those on the model card


def publish_checkpoint(
    path: str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    license: str | None = None,
    dataset: str | None = None,
    overwrite: bool = False,
) -> Publication:
    """Write a published folder for a checkpoint.

    Args:
        path: the checkpoint. If it is in a run folder, the card has its environment and its last evaluation.
        folder: the folder to write.
        name: the name on the card, such as the id on a hub; None: that of the folder.
        license, dataset: see `render_card`.
        overwrite: replace an existing published folder.

    Raises:
        InputError: the checkpoint or the records of its run cannot be read, or the folder exists or cannot be written.
    """
    path, folder = Path(path), Path(folder)
    checkpoint = read_checkpoint(path)
    if custom := checkpoint.config.custom.model:
        raise InputError(
            f"{path}: was trained with a custom model, {custom}, which a published folder cannot describe; share the "
            "checkpoint together with the code of the model"
        )
    scores = recorded_scores(path, checkpoint)
    card = render_card(
        checkpoint,
        name=name or folder.resolve().name,
        scores=scores,
        environment=recorded_environment(run_folder_of(path)),
        license=license,
        dataset=dataset,
    )
    write_published(folder, checkpoint, card=card, overwrite=overwrite)
    sizes = {file: (folder / file).stat().st_size for file in FILES}
    return Publication(folder, sizes, resolve_checkpoint(path).stat().st_size, scores)


def recorded_scores(path: Path, checkpoint: Checkpoint) -> CardScores | None:
    """The scores of a checkpoint in the records of its run: those of `retinanet eval` or, without these, of training.

    An evaluation of another checkpoint, of other weights, or of a part of the data does not count. None if there is no
    record.

    Raises:
        InputError: a record cannot be read.
    """
    folder = run_folder_of(path)
    values = _read_evaluation(folder / METRICS_FILE)
    is_average = values.get("weights") != "last" or not checkpoint.state.get("ema")
    if values.get("file") == resolve_checkpoint(path).name and is_average and not values.get("restricted_to"):
        return scores_of_evaluation(values)
    lines = [line for line in read_metrics(folder) if line["kind"] == "eval" and line["step"] == checkpoint.step]
    return scores_of_training(lines[-1]) if lines else None


def _read_evaluation(file: Path) -> dict[str, Any]:
    """The content of an `evaluation.json`; empty if there is no such file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}; write it again with `retinanet eval`") from None
    return values if isinstance(values, dict) else {}
