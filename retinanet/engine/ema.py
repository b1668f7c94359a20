"""Exponential moving average (EMA) of the weights, which often detects better than the weights themselves."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from retinanet.engine.nonfinite.guard import moving_statistics


class EMA:
    """A copy of the model, updated after each step to average = decay * average + (1 - decay) * weight.

    To keep the initial weights from dominating the first averages, the decay after n updates is
    min(decay, (1 + n) / (10 + n)), starting at 0.1. Values that are not trained are copied instead: running statistics
    at every update, everything else once.

    Args:
        model: the unwrapped model, already on its device, with its initial weights.
        decay: at least 0 and less than 1; 0.9998 averages over about the last 5000 steps.
    """

    def __init__(self, model: nn.Module, decay: float):
        assert 0 <= decay < 1, decay
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        learning = [(average, weight) for average, weight in pairs if weight.requires_grad]
        self._averages = [average for average, _ in learning]
        self._weights = [weight for _, weight in learning]
        self._statistics = list(zip(moving_statistics(self.model), moving_statistics(model), strict=True))
        # Kept on the device, where skipped updates are known without synchronising. Exact up to 16 million updates.
        self._updates = torch.zeros((), device=next(model.parameters()).device)

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """Update the averages after an optimizer step.

        Args:
            skipped: () float32, 1 if the step was skipped and the averages must not change, otherwise 0.
        """
        share = (9 / (10 + self._updates)).clamp(min=1 - self.decay) * (1 - skipped)
        torch._foreach_lerp_(self._averages, self._weights, [share] * len(self._weights))
        for followers, leaders in self._statistics:
            torch._foreach_copy_(followers, leaders)
        self._updates += 1 - skipped

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, under the same names as in the model's state dict, and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._updates.copy_(state["updates"])
