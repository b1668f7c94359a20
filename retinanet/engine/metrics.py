"""Metrics of the training steps, kept on the device until they are logged."""

from typing import Any

import torch

from retinanet.engine.step import StepMetrics
from retinanet.runtime.distributed import gather, rank, sum_over_ranks, world_size


class RunningMeans:
    """Figures of the steps since the last reading, kept on the device: reading them is the one wait of the loop.

    Args:
        skips: whether steps whose gradient is not finite are left out and the run goes on.
    """

    def __init__(self, device: torch.device, *, skips: bool):
        self._sums = torch.zeros(5, device=device)
        self._skips = skips
        self.steps = 0

    def add(self, figures: StepMetrics) -> None:
        """One step. What is not finite, as in steps that are left out, counts as 0 in the means."""
        (class_loss, box_loss), grad_norm, num_positive = figures
        is_finite = torch.isfinite(grad_norm)
        values = torch.stack([class_loss, box_loss, grad_norm.float(), num_positive, is_finite.float()])
        self._sums += torch.where(values.isfinite(), values, 0)
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Means a step, of the global batch, and begin anew. All processes call it at the same step."""
        sums = sum_over_ranks(self._sums.clone()) / (self.steps * world_size())
        class_loss, box_loss, grad_norm, num_positive, finite = sums.tolist()
        figures = {
            "loss": class_loss + box_loss,
            "class_loss": class_loss,
            "box_loss": box_loss,
            "grad_norm": grad_norm,
            "positive_anchors": num_positive,
        }
        if self._skips:
            figures["skipped_share"] = 1 - finite
        self._sums.zero_()
        self.steps = 0
        return figures

    def state_dict(self) -> dict[str, Any]:
        """All processes call it together: each has sums of its own, which the main one collects."""
        return {"sums": gather(self._sums.cpu()), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """On another number of processes each takes the mean: what is read is a mean of them anyway."""
        of_ranks = torch.stack(state["sums"])
        self._sums.copy_(of_ranks[rank()] if len(of_ranks) == world_size() else of_ranks.mean(0))
        self.steps = state["steps"]
