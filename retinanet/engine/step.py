"""One training step: assignment, losses, gradients and update, without waiting for the device."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from retinanet.detection.assignment import Assign
from retinanet.engine.backbone_freeze import BackboneFreeze
from retinanet.engine.ema import EMA
from retinanet.engine.metrics import StepMetrics
from retinanet.engine.nonfinite.guard import NonFiniteGuard
from retinanet.losses.detection import Criterion, Losses
from retinanet.model.detector import Detector
from retinanet.model.retinanet import RetinaNet, is_retinanet
from retinanet.runtime.device import autocast
from retinanet.runtime.distributed import sum_over_ranks, world_size
from retinanet.structures import Batch, HeadOutputs

# Each process keeps its own running statistics for batch norm. Older versions of torch call this argument
# `broadcast_buffers`, which is deprecated in newer ones.
_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
UNSHARED_BUFFERS = {
    "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers": False,
}


class Outputs(nn.Module):
    """The part of the model that is compiled and wrapped in DDP: from normalised images to head outputs."""

    def __init__(self, model: RetinaNet, *, compile: bool):
        super().__init__()
        self.model = model
        # Anchor generation is excluded: it depends on the shape, so every shape would need its own graph.
        self.outputs = torch.compile(model.outputs) if compile else model.outputs

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], ...]:
        return self.outputs(pixels)


def over_processes(outputs: nn.Module, *, init_sync: bool) -> nn.Module:
    """Wrap the network in DDP for the parameters that currently require gradients, if there are several processes.

    Args:
        init_sync: copy all parameters and buffers from the main process first.
    """
    if world_size() == 1:
        return outputs
    return DistributedDataParallel(
        outputs,
        **UNSHARED_BUFFERS,
        gradient_as_bucket_view=True,
        find_unused_parameters=False,
        init_sync=init_sync,
    )


class TrainStep:
    """Runs one training step: assignment, forward pass, losses, backward pass, clipping and update.

    A global batch is split across processes, and each process splits its share into the batches passed to a call. The
    gradient does not depend on the split, because the loss is divided by the number of positive anchors in the whole
    global batch.

    Args:
        model: on the same device as the batches; a `Detector`.
        criterion: the detection loss.
        optimizer: must be fused, so that a step can be skipped without synchronising with the device.
        scaler: gradient scaler; disabled unless training in float16.
        assign: matches anchors to ground truth.
        dtype: autocast dtype of the network; losses are computed in float32.
        clip_norm: maximum total gradient norm; None disables clipping.
        compile: compile the network, if it is a `RetinaNet`. The first few shapes each compile a new graph; after that,
            one graph handles all sizes.
        guard: skips steps with non-finite gradients; if None, such steps are applied as well.
        ema: moving average of the weights, which requires a guard; None disables it.
        freeze: freezes the backbone in the first steps; None never does.
    """

    def __init__(
        self,
        model: Detector,
        criterion: Criterion,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        assign: Assign,
        dtype: torch.dtype,
        clip_norm: float | None = None,
        compile: bool = False,
        guard: NonFiniteGuard | None = None,
        ema: EMA | None = None,
        freeze: BackboneFreeze | None = None,
    ):
        assert guard or not ema
        self.model = model
        self.outputs: nn.Module = Outputs(model, compile=compile) if is_retinanet(model) else model
        self.network = over_processes(self.outputs, init_sync=True)
        self.criterion = criterion
        self.optimizer = optimizer
        self.scaler = scaler
        self.assign = assign
        self.dtype = dtype
        self.clip_norm = clip_norm
        self.guard = guard
        self.ema = ema
        self.freeze = freeze

    def __call__(self, batches: Sequence[Batch], step: int) -> StepMetrics:
        """Train on this process's share of one global batch.

        Args:
            step: number of the step, counted from 1.
        """
        if self.freeze and self.freeze.apply(step):
            # DDP waits for the gradients of the parameters that were trained when it was created.
            self.network = self.outputs  # frees the old gradient buffers first
            self.network = over_processes(self.outputs, init_sync=False)
        if self.guard:
            self.guard.before_step()
        losses, num_positive = self.backward(batches)
        return StepMetrics(losses, self.update(step), num_positive)

    def backward(self, batches: Sequence[Batch]) -> tuple[Losses, Tensor]:
        """Compute gradients, and return the losses and the number of positive anchors in the global batch."""
        # The losses are divided by the number of positive anchors, so assignment, which only needs boxes, comes first.
        assignments, anchors = [], []
        for batch in batches:
            anchors.append(self.model.anchors(*batch.images.shape[-2:], batch.images.device))
            assignments.append(self.assign(anchors[-1], batch.targets))
        num_positive = sum(assignment.positive.sum() for assignment in assignments).float()
        num_positive = sum_over_ranks(num_positive).clamp(min=1)
        # DDP averages gradients over the processes, but the gradient of the global batch is their sum.
        divisor = num_positive / world_size()
        parts = []
        for number, (batch, assignment) in enumerate(zip(batches, assignments, strict=True), start=1):
            with self._gradients_shared(number == len(batches)):
                with autocast(batch.images.device, self.dtype):
                    outputs = self.head_outputs(batch, anchors[number - 1])
                losses = self.criterion(outputs, assignment, batch.targets, divisor)
                self.scaler.scale(losses.total).backward()
            parts.append([loss.detach() for loss in losses])
        return Losses(*map(sum, zip(*parts, strict=True))), num_positive

    def head_outputs(self, batch: Batch, anchors: list[Tensor]) -> HeadOutputs:
        """Compute the raw outputs for a batch."""
        if is_retinanet(self.model):
            class_logits, box_deltas, *quality = self.network(self.model.normalise(batch.images, batch.image_sizes))
            return HeadOutputs(class_logits, box_deltas, anchors, *quality)
        outputs: HeadOutputs = self.network(batch.images, batch.image_sizes)
        return outputs

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
        """Context that reduces gradients across processes only for the last batch of a step."""
        if is_last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()
