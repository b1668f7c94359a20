"""The exponential moving average of weights, which is often a better detector than the weights themselves."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from retinanet.engine.nonfinite.guard import moving_statistics


class EMA:
    """A second model whose weights follow those of the first, step by step: decay * average + (1 - decay) * weight.

    The first averages would be of random weights. So the decay begins at 0.1 and is (1 + n) / (10 + n) after n updates,
    until that passes `decay`. What does not learn is copied: running statistics in every update, the rest once.

    Args:
        model: with the weights that the run starts from, not wrapped, on its device.
        decay: 0 to 1; 0.9998 averages over about the last 5000 steps.
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
        # On the device, since only there it is known which updates were left out. Exact for 16 million updates.
        self._updates = torch.zeros((), device=next(model.parameters()).device)

    @torch.no_grad()
    def update(self, left_out: Tensor) -> None:
        """Follow the weights after the optimizer's step.

        Args:
            left_out: () float32, 1 where the step was left out, and nothing is to move; else 0.
        """
        share = (9 / (10 + self._updates)).clamp(min=1 - self.decay) * (1 - left_out)
        torch._foreach_lerp_(self._averages, self._weights, [share] * len(self._weights))
        for followers, leaders in self._statistics:
            torch._foreach_copy_(followers, leaders)
        self._updates += 1 - left_out

    def state_dict(self) -> dict[str, Any]:
        """The average under the names of the model, as the model itself would give it."""
        return {"model": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._updates.copy_(state["updates"])
