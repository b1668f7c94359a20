"""One training step: from a batch on the device to changed weights, without a wait for the device."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from retinanet.config import AssignmentConfig
from retinanet.detection.assignment import assign
from retinanet.detection.losses import DetectionLoss, Losses
from retinanet.device import autocast
from retinanet.model.retinanet import RetinaNet
from retinanet.structures import Batch, Predictions


class StepFigures(NamedTuple):
    """What a step tells, on the device: reading it is the reader's wait."""

    losses: Losses
    grad_norm: Tensor  # () before clipping
    num_positive: Tensor  # () float32, at least 1


class TrainStep:
    """Assignment, forward, losses, backward, clipping and update.

    Args:
        model: on the device of the batches.
        criterion: its loss.
        optimizer: fused, so that a skipped step needs no reading of the device.
        scaler: of the gradient; switched off but in float16.
        assignment: which anchor learns what.
        dtype: the network computes in it, under autocast; losses are float32.
        clip_norm: total gradient norm is cut to it; None leaves it.
        compile: compile the network. The first few shapes cost a graph each; then one serves all sizes.
    """

    def __init__(
        self,
        model: RetinaNet,
        criterion: DetectionLoss,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        assignment: AssignmentConfig,
        dtype: torch.dtype,
        clip_norm: float | None = None,
        compile: bool = False,
    ):
        self.model = model
        # Without the anchors, which are made once a shape: each would be a graph of its own.
        self.outputs = torch.compile(model.outputs) if compile else model.outputs
        self.criterion = criterion
        self.optimizer = optimizer
        self.scaler = scaler
        self.matching = assignment.model_dump()
        self.dtype = dtype
        self.clip_norm = clip_norm

    def __call__(self, batch: Batch) -> StepFigures:
        losses, num_positive = self.backward(batch)
        return StepFigures(losses, self.update(), num_positive)

    def backward(self, batch: Batch) -> tuple[Losses, Tensor]:
        """The losses, the positive anchors they are divided by, and a gradient in every weight that learns."""
        device = batch.images.device
        # Needs the boxes alone, so it stands before the network: the divisor is known when the losses are.
        anchors = self.model.anchors(*batch.images.shape[-2:], device)
        assignment = assign(anchors, batch.targets, **self.matching)
        num_positive = assignment.positive.sum().float().clamp(min=1)
        with autocast(device, self.dtype):
            class_logits, box_deltas = self.outputs(self.model.normalise(batch.images, batch.image_sizes))
        predictions = Predictions(class_logits, box_deltas, anchors)
        losses = self.criterion(predictions, assignment, batch.targets, num_positive)
        self.scaler.scale(losses.total).backward()
        return losses, num_positive

    def update(self) -> Tensor:
        """Clip the gradients, change the weights, and return the total norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip(self.model, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm


def clip(model: nn.Module, max_norm: float | None) -> Tensor:
    """Total gradient norm before clipping, on the device."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if max_norm is None:
        return get_total_norm([parameter.grad for parameter in parameters])
    return clip_grad_norm_(parameters, max_norm)
