"""Freeze the backbone during the first steps of a run."""

from torch import nn


class BackboneFreeze:
    """Keeps a backbone unchanged in the first steps of a run, while the rest of the network is trained.

    Its parameters get no gradient, so neither weight decay nor momentum changes them, and its norms stay in evaluation
    mode. A frozen backbone saves no activations and has no backward pass. Parameters that are always frozen stay so.

    The state depends only on the step, so nothing needs to be saved in checkpoints.

    Args:
        backbone: with the `requires_grad` of the later steps.
        num_steps: number of frozen steps; 0 never freezes.
    """

    def __init__(self, backbone: nn.Module, num_steps: int):
        self.num_steps = num_steps
        self._backbone = backbone
        self._trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        self._is_frozen = False

    def is_due(self, step: int) -> bool:
        """Whether the backbone is frozen in a step, counted from 1."""
        return step <= self.num_steps

    def apply(self, step: int) -> bool:
        """Freeze or unfreeze the backbone for a step, and return whether that changed which parameters are trained."""
        was_frozen, self._is_frozen = self._is_frozen, self.is_due(step)
        if self._is_frozen:
            self._backbone.eval()  # at every step, since `model.train()` may be called in between
        if self._is_frozen == was_frozen:
            return False
        for parameter in self._trained:
            parameter.requires_grad_(not self._is_frozen)
        if was_frozen:
            self._backbone.train()
        return True
