"""One training step: assignment, positive anchors of the global batch, losses, gradients, update; no host reads."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from retinanet.detection.assignment import Assign
from retinanet.engine.ema import EMA
from retinanet.engine.metrics import StepMetrics
from retinanet.engine.nonfinite.guard import NonFiniteGuard
from retinanet.losses.detection import DetectionLoss, Losses
from retinanet.model.retinanet import RetinaNet
from retinanet.runtime.device import autocast
from retinanet.runtime.distributed import sum_over_ranks, world_size
from retinanet.structures import Batch, HeadOutputs

# Each process keeps the running statistics of its own batch norms. Older versions of torch name the argument
# `broadcast_buffers`, which newer ones deprecate.
_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
UNSHARED_BUFFERS = {
    "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers": False,
}


class Outputs(nn.Module):
    """The compiled part of the model, with gradients reduced across processes: normalised images to head outputs."""

    def __init__(self, model: RetinaNet, *, compile: bool):
        super().__init__()
        self.model = model
        # Excludes the anchors, which are generated once per shape: each shape would need its own graph.
        self.outputs = torch.compile(model.outputs) if compile else model.outputs

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.outputs(pixels)


class TrainStep:
    """Assignment, forward pass, losses, backward pass, clipping and update.

    A global batch is split over the processes of the group, and by each process over the batches of a call. The
    gradient does not depend on the split, since the loss is divided by the number of positive anchors in the whole
    global batch.

    Args:
        model: on the device of the batches.
        criterion: the detection loss.
        optimizer: fused, so that skipping a step needs no read from the device.
        scaler: gradient scaler, disabled except in float16.
        assign: matches anchors to ground truth.
        dtype: computing type of the network, under autocast; losses are float32.
        clip_norm: largest total gradient norm; None disables clipping.
        compile: compile the network. The first few shapes cost a graph each; then one graph serves all sizes.
        guard: skips steps with non-finite gradients; None applies them.
        ema: follows the weights, and requires a guard; None disables it.
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
                self.network, **UNSHARED_BUFFERS, gradient_as_bucket_view=True, find_unused_parameters=False
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
        """Train on this process's part of one global batch.

        Args:
            step: its number, from 1.
        """
        if self.guard:
            self.guard.before_step()
        losses, num_positive = self.backward(batches)
        return StepMetrics(losses, self.update(step), num_positive)

    def backward(self, batches: Sequence[Batch]) -> tuple[Losses, Tensor]:
        """Compute losses and gradients; returns the losses and the number of positive anchors in the global batch."""
        # Assignment needs boxes only, so it runs before the network: the losses need their divisor.
        assignments, anchors = [], []
        for batch in batches:
            anchors.append(self.model.anchors(*batch.images.shape[-2:], batch.images.device))
            assignments.append(self.assign(anchors[-1], batch.targets))
        num_positive = sum(assignment.positive.sum() for assignment in assignments).float()
        num_positive = sum_over_ranks(num_positive).clamp(min=1)
        # Gradients are averaged over processes; the gradient of the global batch is their sum.
        divisor = num_positive / world_size()
        parts = []
        for number, (batch, assignment) in enumerate(zip(batches, assignments, strict=True), start=1):
            with self._gradients_shared(number == len(batches)):
                with autocast(batch.images.device, self.dtype):
                    class_logits, box_deltas = self.network(self.model.normalise(batch.images, batch.image_sizes))
                outputs = HeadOutputs(class_logits, box_deltas, anchors[number - 1])
                losses = self.criterion(outputs, assignment, batch.targets, divisor)
                self.scaler.scale(losses.total).backward()
            parts.append([loss.detach() for loss in losses])
        return Losses(*map(sum, zip(*parts, strict=True))), num_positive

    def update(self, step: int) -> Tensor:
        """Clip the gradients, update the weights, and return the total gradient norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        grad_norm = get_total_norm(gradients)
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), self.clip_norm, grad_norm)
        skipped = self.guard.mask(grad_norm, step) if self.guard else None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(skipped)
        return grad_norm

    def _gradients_shared(self, is_last: bool) -> AbstractContextManager[None]:
        """Reduce gradients across processes only with the last batch of a step."""
        if is_last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()
