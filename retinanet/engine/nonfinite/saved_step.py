"""File format for a training step with non-finite gradients, with everything needed to replay it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retinanet.config import Config
from retinanet.config.load import config_from_values
from retinanet.errors import InputError
from retinanet.structures import Batch, Targets

FORMAT = "retinanet replay 3"


class SavedStep(NamedTuple):
    """Everything needed to replay a step."""

    cfg: Config
    class_names: Sequence[str]
    model_state: dict[str, Tensor]  # weights before the step
    batches: list[Batch]  # all micro-batches of the global batch, since the loss is divided by their positive anchors
    image_ids: Sequence[int | str]  # ids of the images in all batches, in order
    step: int
    dtype: torch.dtype  # precision of the network
    loss_scale: float = 1.0  # scale of the gradient scaler; 1 if there is none


def write_saved_step(path: Path, saved: SavedStep) -> None:
    """Write a step to a file, which is either complete or absent. Tensors may be on any device.

    Raises:
        InputError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "config": saved.cfg.model_dump_json(),
        "class_names": list(saved.class_names),
        "model": {name: value.detach().cpu() for name, value in saved.model_state.items()},
        "batches": [_plain(batch.to(torch.device("cpu"))) for batch in saved.batches],
        "image_ids": list(saved.image_ids),
        "step": saved.step,
        "dtype": saved.dtype,
        "loss_scale": float(saved.loss_scale),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError if the disk is full
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: the step cannot be written: {str(error).splitlines()[0]}") from None


def read_saved_step(path: str | Path) -> SavedStep:
    """Read a file written by `write_saved_step`, with tensors on the CPU. Never executes code from the file.

    Raises:
        InputError: the file is missing, damaged, or not a saved step.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; training writes one when a gradient is not finite") from None
    except Exception as error:  # torch.load raises many types of exceptions, depending on the damage
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InputError(f"{path}: not a saved training step, or incomplete ({reason[0][:160]})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a {FORMAT!r} file; pass a file written by `retinanet train`")
    return SavedStep(
        cfg=config_from_values(json.loads(content["config"]), source=f"{path}: config"),
        class_names=content["class_names"],
        model_state=content["model"],
        batches=[_batch(plain) for plain in content["batches"]],
        image_ids=content["image_ids"],
        step=content["step"],
        dtype=content["dtype"],
        loss_scale=content["loss_scale"],
    )


def _plain(batch: Batch) -> dict[str, Any]:
    """Convert a batch to values that `weights_only` loading accepts.

    Tensors are cloned, because torch.save would write the entire storage behind a view.
    """
    return {
        "images": batch.images.clone(),
        "image_sizes": batch.image_sizes.clone(),
        "original_sizes": batch.original_sizes.clone(),
        "targets": batch.targets.map(torch.clone)._asdict(),
        "image_indices": list(batch.image_indices),
    }


def _batch(plain: dict[str, Any]) -> Batch:
    """Rebuild a batch from the values returned by `_plain`."""
    return Batch(
        images=plain["images"],
        image_sizes=plain["image_sizes"],
        original_sizes=plain["original_sizes"],
        targets=Targets(**plain["targets"]),
        image_indices=tuple(plain["image_indices"]),
    )
