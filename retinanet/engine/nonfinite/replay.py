"""Save a step with non-finite gradients, replay it, and diagnose it."""

import json
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retinanet.config import Config
from retinanet.config.load import config_from_values
from retinanet.detection.assignment import Assign
from retinanet.detection.build import build_assignment
from retinanet.engine.nonfinite.report import ImageReport, ReplayReport
from retinanet.engine.nonfinite.trace import FirstNonFinite
from retinanet.errors import InputError
from retinanet.losses.build import build_loss
from retinanet.losses.detection import DetectionLoss
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.runtime.device import autocast, memory_format_for
from retinanet.structures import Batch, HeadOutputs, Targets

FORMAT = "retinanet replay 2"


def write_replay(
    path: Path,
    *,
    cfg: Config,
    class_names: Sequence[str],
    model_state: dict[str, Tensor],
    batches: list[Batch],
    image_ids: Sequence[int | str],
    step: int,
    dtype: torch.dtype,
    loss_scale: float = 1.0,
) -> None:
    """Write everything that a step depends on, from any device. The file is complete or absent.

    Args:
        model_state: weights before the step.
        batches: every micro-batch of the global batch, from all ranks: the loss is divided by the positives of all.
        image_ids: ids of the images in all batches, in order.
        dtype: precision of the network.
        loss_scale: scale of the gradient scaler, 1 without one.

    Raises:
        InputError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "config": cfg.model_dump_json(),
        "class_names": list(class_names),
        "model": {name: value.detach().cpu() for name, value in model_state.items()},
        "batches": [_plain(batch.to(torch.device("cpu"))) for batch in batches],
        "image_ids": list(image_ids),
        "step": step,
        "dtype": dtype,
        "loss_scale": float(loss_scale),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError if the disk is full
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: the step cannot be written: {str(error).splitlines()[0]}") from None


def read_replay(path: str | Path) -> dict[str, Any]:
    """Read what `write_replay` wrote, with tensors on the CPU. No code in the file is run.

    Raises:
        InputError: the file is missing, damaged or of a different kind.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; training writes one when a gradient is not finite") from None
    except Exception as error:  # torch.load raises a different type for each way a file can be wrong
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InputError(f"{path}: not a step written by training, or incomplete ({reason[0][:160]})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a {FORMAT!r} file; give a file that training wrote")
    return content


def replay(path: str | Path, device: torch.device) -> ReplayReport:
    """Replay a saved step, with all images and with each image separately. Slow: it checks every value.

    Raises:
        InputError: the file cannot be used.
    """
    content = read_replay(path)
    cfg = config_from_values(json.loads(content["config"]), source=f"{path}: config")
    # There are no other ranks to share statistics with.
    norm, note = cfg.model.backbone.norm, ""
    if norm == "sync":
        norm, note = "batch", "norm sync is replaced by batch: each micro-batch has its own statistics"
    model = build_model(
        cfg.model.model_copy(update={"backbone": cfg.model.backbone.model_copy(update={"norm": norm})}),
        len(content["class_names"]),
    )
    model.load_state_dict(content["model"])
    dtype = content["dtype"]
    model.to(device=device, memory_format=memory_format_for(device, dtype)).train()
    bad_weights = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    batches = [_batch(plain).to(device) for plain in content["batches"]]
    criterion = build_loss(cfg.loss, num_classes=len(content["class_names"]))
    step = ReplayedStep(model, criterion, build_assignment(cfg.assignment), dtype, content["loss_scale"])
    num_positive = step.num_positive(batches)

    trace = FirstNonFinite(model)
    together = step.run(batches, num_positive, trace)
    images = [_only(batch, row) for batch in batches for row in range(len(batch.images))]
    separate = [step.run([batch], num_positive) for batch in images]
    return ReplayReport(
        step=content["step"],
        device=str(device),
        dtype=dtype,
        loss_scale=content["loss_scale"],
        num_positive=num_positive.item(),
        bad_weights=bad_weights,
        class_per_level=together.class_per_level,
        box_per_level=together.box_per_level,
        grad_norm=together.grad_norm,
        first_in_forward=trace.first.get("forward"),
        first_in_backward=trace.first.get("backward"),
        bad_gradients=together.bad_gradients,
        num_gradients=together.num_gradients,
        images=[
            _image_report(image_id, batch, outcome)
            for image_id, batch, outcome in zip(content["image_ids"], images, separate, strict=True)
        ],
        note=note,
    )


class Outcome(NamedTuple):
    """Losses and gradients of one run of the step."""

    class_per_level: list[float]
    box_per_level: list[float]
    grad_norm: float
    bad_gradients: list[str]
    num_gradients: int


class ReplayedStep:
    """Forward and backward pass as in training, without a change of the weights."""

    def __init__(
        self,
        model: RetinaNet,
        criterion: DetectionLoss,
        assign: Assign,
        dtype: torch.dtype,
        loss_scale: float,
    ):
        self.model = model
        self.criterion = criterion
        self.assign = assign
        self.dtype = dtype
        self.loss_scale = loss_scale

    def num_positive(self, batches: list[Batch]) -> Tensor:
        """Number of positive anchors in all batches, at least 1: ()."""
        counts = [self.assign(self._anchors(batch), batch.targets).positive.sum().float() for batch in batches]
        return sum(counts).clamp(min=1)

    def run(self, batches: list[Batch], num_positive: Tensor, trace: FirstNonFinite | None = None) -> Outcome:
        """Run forward and backward on all batches; the gradients of the scaled loss remain in the model."""

        def watched(pass_name: str) -> AbstractContextManager:
            return nullcontext() if trace is None else trace.on(pass_name)

        self.model.zero_grad(set_to_none=True)
        levels: list[list[float]] = []  # for each batch, class losses followed by box losses
        for batch in batches:
            anchors = self._anchors(batch)
            assignment = self.assign(anchors, batch.targets)
            pixels = self.model.normalise(batch.images, batch.image_sizes)
            with watched("forward"), autocast(pixels.device, self.dtype):
                class_logits, box_deltas = self.model.outputs(pixels)
            sums = self.criterion.sums_per_level(
                HeadOutputs(class_logits, box_deltas, anchors), assignment, batch.targets
            )
            losses = [self.criterion.class_weight * value / num_positive for value in sums.classification]
            losses += [self.criterion.box_weight * value / num_positive for value in sums.box_regression]
            levels.append([loss.item() for loss in losses])
            total = sum(losses) * self.loss_scale
            with watched("backward"):
                total.backward()
        gradients = {name: p.grad / self.loss_scale for name, p in self.model.named_parameters() if p.grad is not None}
        summed = [sum(values) for values in zip(*levels, strict=True)]
        half = len(summed) // 2
        norm = nn.utils.get_total_norm(list(gradients.values())).item()
        bad = [name for name, value in gradients.items() if not value.isfinite().all()]
        return Outcome(summed[:half], summed[half:], norm, bad, len(gradients))

    def _anchors(self, batch: Batch) -> list[Tensor]:
        return self.model.anchors(*batch.images.shape[-2:], batch.images.device)


def _image_report(image_id: int | str, batch: Batch, outcome: Outcome) -> ImageReport:
    height, width = batch.image_sizes[0].tolist()
    pixels = batch.images[0, :, :height, :width]
    targets = batch.targets
    boxes = targets.boxes[0][(targets.is_object | targets.is_crowd)[0]].tolist()
    sides = [side for x1, y1, x2, y2 in boxes for side in (x2 - x1, y2 - y1)]
    return ImageReport(
        image_id=image_id,
        size=(height, width),
        pixels=(pixels.min().item(), pixels.max().item(), pixels.float().mean().item()),
        num_boxes=len(boxes),
        sides=(min(sides), max(sides)) if sides else None,
        invalid_boxes=[problem for box in boxes if (problem := _problem(box, height, width))],
        classification=sum(outcome.class_per_level),
        box_regression=sum(outcome.box_per_level),
        grad_norm=outcome.grad_norm,
    )


def _problem(box: list[float], height: int, width: int) -> str | None:
    """Describe what is wrong with a box (x1, y1, x2, y2); None if it is valid."""
    x1, y1, x2, y2 = box
    shown = f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if not all(map(math.isfinite, box)):
        return f"{shown} is not finite"
    if x2 <= x1 or y2 <= y1:
        return f"{shown} has no area"
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:  # a pixel for rounding
        return f"{shown} is outside the image"
    return None


def _only(batch: Batch, row: int) -> Batch:
    """One image of a batch, in the same padded shape."""
    rows = slice(row, row + 1)
    targets = batch.targets
    return Batch(
        images=batch.images[rows],
        image_sizes=batch.image_sizes[rows],
        original_sizes=batch.original_sizes[rows],
        targets=Targets(
            boxes=targets.boxes[rows],
            labels=targets.labels[rows],
            is_object=targets.is_object[rows],
            is_crowd=targets.is_crowd[rows],
            has_crowd=targets.has_crowd,
        ),
        image_indices=batch.image_indices[rows],
    )


def _plain(batch: Batch) -> dict[str, Any]:
    """Values that `weights_only` loading accepts. Tensors are cloned: a view would be saved with its whole storage."""
    targets = batch.targets
    return {
        "images": batch.images.clone(),
        "image_sizes": batch.image_sizes.clone(),
        "original_sizes": batch.original_sizes.clone(),
        "boxes": targets.boxes.clone(),
        "labels": targets.labels.clone(),
        "is_object": targets.is_object.clone(),
        "is_crowd": targets.is_crowd.clone(),
        "has_crowd": targets.has_crowd,
        "image_indices": list(batch.image_indices),
    }


def _batch(plain: dict[str, Any]) -> Batch:
    """The batch that `_plain` took apart."""
    return Batch(
        images=plain["images"],
        image_sizes=plain["image_sizes"],
        original_sizes=plain["original_sizes"],
        targets=Targets(
            boxes=plain["boxes"],
            labels=plain["labels"],
            is_object=plain["is_object"],
            is_crowd=plain["is_crowd"],
            has_crowd=plain["has_crowd"],
        ),
        image_indices=tuple(plain["image_indices"]),
    )
