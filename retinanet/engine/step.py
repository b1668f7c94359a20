"""One training step: from a global batch on the device to changed weights, without a wait for the device."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from retinanet.detection.assignment import Assign
from retinanet.engine.ema import EMA
from retinanet.engine.nonfinite.guard import NonFiniteGuard
from retinanet.losses.detection import DetectionLoss, Losses
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import autocast
from retinanet.runtime.distributed import sum_over_ranks, world_size
from retinanet.structures import Batch, HeadOutputs


class StepMetrics(NamedTuple):
    """What a step tells, on the device: reading it is the reader's wait."""

    losses: Losses  # of this process's share, so divided that the mean over processes is the loss of the global batch
    grad_norm: Tensor  # () before clipping, of the global batch
    num_positive: Tensor  # () float32, of the global batch, at least 1


class Outputs(nn.Module):
    """Normalised images to logits and deltas: what is compiled, and what several processes share gradients of."""

    def __init__(self, model: RetinaNet, *, compile: bool):
        super().__init__()
        self.model = model
        # Without the anchors, which are made once a shape: each would be a graph of its own.
        self.outputs = torch.compile(model.outputs) if compile else model.outputs

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.outputs(pixels)


class TrainStep:
    """Assignment, forward, losses, backward, clipping and update.

    A global batch is shared by the processes of the group, and by each process cut into the batches of a call: the
    gradient is the same however it is shared, since the loss is divided by the positive anchors of all of it.

    Args:
        model: on the device of the batches.
        criterion: its loss.
        optimizer: fused, so that a skipped step needs no reading of the device.
        scaler: of the gradient; switched off but in float16.
        assign: which anchor learns what.
        dtype: the network computes in it, under autocast; losses are float32.
        clip_norm: total gradient norm is cut to it; None leaves it.
        compile: compile the network. The first few shapes cost a graph each; then one serves all sizes.
        guard: leaves everything as it was in a step whose gradient is not finite; None changes it regardless.
        ema: follows the weights, which takes a guard; None does without.
    """

    def __init__(
        self,
        model: RetinaNet,
        criterion: DetectionLoss,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        assign: Assign,
        dtype: torch.dtype,
        clip_norm: float | None = None,
        compile: bool = False,
        guard: NonFiniteGuard | None = None,
        ema: EMA | None = None,
    ):
        assert guard or not ema
        self.model = model
        self.network: nn.Module = Outputs(model, compile=compile)
        if world_size() > 1:
            self.network = DistributedDataParallel(
                self.network, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=False
            )
        self.criterion = criterion
        self.optimizer = optimizer
        self.scaler = scaler
        self.assign = assign
        self.dtype = dtype
        self.clip_norm = clip_norm
        self.guard = guard
        self.ema = ema

    def __call__(self, batches: Sequence[Batch], step: int) -> StepMetrics:
        """The share of this process of one global batch, and the number of the step, from 1."""
        if self.guard:
            self.guard.before_step()
        losses, num_positive = self.backward(batches)
        return StepMetrics(losses, self.update(step), num_positive)

    def backward(self, batches: Sequence[Batch]) -> tuple[Losses, Tensor]:
        """The losses, the positive anchors of the global batch, and a gradient in every weight that learns."""
        # Needs the boxes alone, so it stands before the network: the divisor is known when the losses are.
        assignments, anchors = [], []
        for batch in batches:
            anchors.append(self.model.anchors(*batch.images.shape[-2:], batch.images.device))
            assignments.append(self.assign(anchors[-1], batch.targets))
        num_positive = sum(assignment.positive.sum() for assignment in assignments).float()
        num_positive = sum_over_ranks(num_positive).clamp(min=1)
        # Gradients are averaged over the processes, where those of the whole batch are a sum.
        divisor = num_positive / world_size()
        parts = []
        for number, (batch, assignment) in enumerate(zip(batches, assignments, strict=True), start=1):
            with self._gradients_shared(number == len(batches)):
                with autocast(batch.images.device, self.dtype):
                    class_logits, box_deltas = self.network(self.model.normalise(batch.images, batch.image_sizes))
                predictions = HeadOutputs(class_logits, box_deltas, anchors[number - 1])
                losses = self.criterion(predictions, assignment, batch.targets, divisor)
                self.scaler.scale(losses.total).backward()
            parts.append([loss.detach() for loss in losses])
        return Losses(*map(sum, zip(*parts, strict=True))), num_positive

    def update(self, step: int) -> Tensor:
        """Clip the gradients, change the weights, and return the total norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        grad_norm = get_total_norm(gradients)
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), self.clip_norm, grad_norm)
        left_out = self.guard.mask(grad_norm, step) if self.guard else None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(left_out)
        return grad_norm

    def _gradients_shared(self, is_last: bool) -> AbstractContextManager[None]:
        """All but the last batch of a step leave their gradients where they are."""
        is_alone = not isinstance(self.network, DistributedDataParallel)
        return nullcontext() if is_alone or is_last else self.network.no_sync()
