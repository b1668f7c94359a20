"""Replay a saved step with non-finite gradients, and diagnose it."""

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retinanet.detection.assignment import Assign
from retinanet.detection.build import build_assignment
from retinanet.engine.backbone_freeze import BackboneFreeze
from retinanet.engine.nonfinite.report import ImageReport, ReplayReport
from retinanet.engine.nonfinite.saved_step import read_saved_step
from retinanet.engine.nonfinite.trace import FirstNonFinite
from retinanet.losses.build import build_loss
from retinanet.losses.detection import DetectionLoss
from retinanet.model.retinanet import RetinaNet, build_model
from retinanet.runtime.device import autocast, memory_format_for
from retinanet.structures import Batch, HeadOutputs


def replay(path: str | Path, device: torch.device) -> ReplayReport:
    """Replay a saved step with all images, then with each image separately. Slow, because every value is checked.

    Raises:
        InputError: the file cannot be used.
    """
    saved = read_saved_step(path)
    cfg = saved.cfg
    # Sync norm shares statistics with other ranks, but a replay has only one process.
    architecture, notes = cfg.model, []
    if architecture.backbone.norm == "sync":
        backbone = architecture.backbone.model_copy(update={"norm": "batch"})
        architecture = architecture.model_copy(update={"backbone": backbone})
        notes.append("norm sync is replaced by batch")
    if architecture.head_norm == "sync_per_level":
        architecture = architecture.model_copy(update={"head_norm": "batch_per_level"})
        notes.append("head_norm sync_per_level is replaced by batch_per_level")
    note = f"{' and '.join(notes)}: each micro-batch has its own statistics" if notes else ""
    model = build_model(architecture, len(saved.class_names))
    model.load_state_dict(saved.model_state)
    dtype = saved.dtype
    model.to(device=device, memory_format=memory_format_for(device, dtype)).train()
    BackboneFreeze(model.backbone, cfg.train.freeze_backbone_steps).apply(saved.step)
    bad_weights = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    batches = [batch.to(device) for batch in saved.batches]
    criterion = build_loss(cfg.loss, num_classes=len(saved.class_names))
    step = ReplayedStep(model, criterion, build_assignment(cfg.assignment), dtype, saved.loss_scale)
    num_positive = step.num_positive(batches)

    trace = FirstNonFinite(model)
    together = step.run(batches, num_positive, trace)
    images = [_only(batch, row) for batch in batches for row in range(len(batch.images))]
    separate = [step.run([batch], num_positive) for batch in images]
    return ReplayReport(
        step=saved.step,
        device=str(device),
        dtype=dtype,
        loss_scale=saved.loss_scale,
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
            for image_id, batch, outcome in zip(saved.image_ids, images, separate, strict=True)
        ],
        note=note,
    )


class Outcome(NamedTuple):
    """Losses and gradients from running the step once."""

    class_per_level: list[float]
    box_per_level: list[float]
    grad_norm: float
    bad_gradients: list[str]
    num_gradients: int


class ReplayedStep:
    """The forward and backward passes of a training step, without the optimizer step."""

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
        """Number of positive anchors in all batches, at least 1, as a tensor of shape ()."""
        counts = [self.assign(self._anchors(batch), batch.targets).positive.sum().float() for batch in batches]
        return sum(counts).clamp(min=1)

    def run(self, batches: list[Batch], num_positive: Tensor, trace: FirstNonFinite | None = None) -> Outcome:
        """Run the forward and backward passes on all batches, leaving the gradients of the scaled loss in the model."""

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
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:  # allow one pixel for rounding
        return f"{shown} is outside the image"
    return None


def _only(batch: Batch, row: int) -> Batch:
    """Extract one image of a batch as a separate batch with the same padded shape."""
    rows = slice(row, row + 1)
    return Batch(
        images=batch.images[rows],
        image_sizes=batch.image_sizes[rows],
        original_sizes=batch.original_sizes[rows],
        targets=batch.targets.map(lambda tensor: tensor[rows]),
        image_indices=batch.image_indices[rows],
    )
