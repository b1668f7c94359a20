"""Detect a run whose loss has exploded while its gradients stay finite, as happens with gradient clipping."""

import logging
from typing import Any

import torch

from retinanet.losses.detection import Losses
from retinanet.runtime.distributed import broadcast

log = logging.getLogger(__name__)

FACTOR = 100.0  # the loss has exploded if it exceeds that of the first step by this factor
LOWEST_START = 1.0  # an untrained detector starts at about this loss, a fine-tuned one lower
PATIENCE = 10  # consecutive steps with such a loss


class DivergenceCheck:
    """Counts the consecutive steps with an exploded loss on the device; only `read` waits for the device.

    A run has diverged if in each of its last `PATIENCE` steps, the loss was more than `FACTOR` times that of the first
    step, or of `LOWEST_START` if that is larger. Spikes early in training are lower or shorter. The loss is that of the
    main process's images.
    """

    def __init__(self, device: torch.device):
        self.diverged = False  # as of the last call to `read`
        self._limit = torch.zeros((), device=device)  # 0 before the first step
        self._steps = torch.zeros((), device=device)

    def add(self, losses: Losses) -> None:
        """Add the loss of a step."""
        loss = losses.classification + losses.box_regression
        first_limit = FACTOR * loss.nan_to_num(LOWEST_START, posinf=LOWEST_START).clamp(min=LOWEST_START)
        self._limit.copy_(torch.where(self._limit == 0, first_limit, self._limit))
        self._steps.add_(1).mul_(loss > self._limit)

    def read(self, step: int) -> bool:
        """Return whether the run has diverged, and log any change. Collective; waits for the device once.

        Args:
            step: number of completed steps, for the warning.
        """
        steps, limit = broadcast(torch.stack([self._steps, self._limit]).tolist())
        before, self.diverged = self.diverged, steps >= PATIENCE
        if self.diverged and not before:
            log.warning(
                "step %d: training has diverged: for %d steps the loss has been more than %g times that of the first "
                "step (%.3g). %s",
                step, steps, FACTOR, limit / FACTOR, ADVICE,
            )  # fmt: skip
        elif before and not self.diverged:
            log.info("step %d: the loss is below %.3g again", step, limit)
        return self.diverged

    def state_dict(self) -> dict[str, Any]:
        return {"diverged": self.diverged, "limit": self._limit, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.diverged = state["diverged"]
        self._limit.copy_(state["limit"])
        self._steps.copy_(state["steps"])


ADVICE = "Lower train.optimizer.lr, raise train.warmup_steps, or lower train.clip_norm"
