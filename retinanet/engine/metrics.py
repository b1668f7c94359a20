"""Metrics of training steps, and their running means."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from retinanet.losses.detection import Losses
from retinanet.runtime.distributed import gather, rank, sum_over_ranks, world_size


class StepMetrics(NamedTuple):
    """Metrics of one training step, kept on the device: reading them synchronises."""

    losses: Losses  # for this process's images, scaled such that their mean over processes is the global batch's loss
    grad_norm: Tensor  # () gradient norm of the global batch, before clipping
    num_positive: Tensor  # () float32, number of positive anchors in the global batch, at least 1


class RunningMeans:
    """Means over the steps since the last call to `read`, kept on the device: only `read` synchronises.

    Args:
        skips: whether the run skips steps with non-finite gradients and continues.
    """

    def __init__(self, device: torch.device, *, skips: bool):
        self._sums = torch.zeros(5, device=device)
        self._skips = skips
        self.steps = 0

    def add(self, metrics: StepMetrics) -> None:
        """Add one step. Non-finite values, which occur in skipped steps, count as 0 in the means."""
        is_finite = torch.isfinite(metrics.grad_norm)
        values = torch.stack(
            [
                metrics.losses.classification,
                metrics.losses.box_regression,
                metrics.grad_norm.float(),
                metrics.num_positive,
                is_finite.float(),
            ]
        )
        self._sums += torch.where(values.isfinite(), values, 0)
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Return the means over steps and processes, and reset them.

        Collective: every process must call it at the same step.
        """
        sums = sum_over_ranks(self._sums.clone()) / (self.steps * world_size())
        class_loss, box_loss, grad_norm, num_positive, finite = sums.tolist()
        means = {
            "loss": class_loss + box_loss,
            "class_loss": class_loss,
            "box_loss": box_loss,
            "grad_norm": grad_norm,
            "positive_anchors": num_positive,
        }
        if self._skips:
            means["skipped_share"] = 1 - finite
        self._sums.zero_()
        self.steps = 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums of all processes, on the main process only. Collective."""
        return {"sums": gather(self._sums.cpu()), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums. If the number of processes has changed, each takes the mean, so `read` is unaffected."""
        sums_of_ranks = torch.stack(state["sums"])
        is_same_number = len(sums_of_ranks) == world_size()
        self._sums.copy_(sums_of_ranks[rank()] if is_same_number else sums_of_ranks.mean(0))
        self.steps = state["steps"]
