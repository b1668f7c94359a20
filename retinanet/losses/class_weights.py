"""Class weights (alpha) for the class losses; Lin et al. 2017, section 3.1, suggest the inverse class frequency."""

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet.losses.chunking import working_type


class ClassWeights:
    """One weight for all classes, or one per class, copied only once to each device.

    Args:
        values: one number, or K numbers.
    """

    def __init__(self, values: float | Sequence[float]):
        self.values = tuple(values) if isinstance(values, Sequence) else float(values)
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def check(self, num_classes: int) -> None:
        """Check that the number of per-class weights matches the number of classes.

        Raises:
            ValueError: the two numbers differ.
        """
        if isinstance(self.values, tuple) and len(self.values) != num_classes:
            raise ValueError(
                f"class weights: found {len(self.values)} values for {num_classes} classes; pass one per class"
            )

    def like(self, logits: Tensor) -> float | Tensor:
        """Return the weights (K,) on the device of the logits, in the dtype of the loss; a number is unchanged."""
        if isinstance(self.values, float):
            return self.values
        key = (logits.device, working_type(logits))
        if key not in self._copies:  # once per run, since each copy synchronises the device
            self._copies[key] = torch.tensor(self.values, device=key[0], dtype=key[1])
        return self._copies[key]

    def at(self, classes: Tensor, logits: Tensor) -> float | Tensor:
        """Return the weights of class indices of any shape, on the device of the logits, in the dtype of the loss."""
        weights = self.like(logits)
        return weights[classes] if isinstance(weights, Tensor) else weights


def inverse_frequency(class_counts: Sequence[int]) -> tuple[float, ...]:
    """Return alpha_c = m / (m + n_c), where n_c >= 1 is the number of objects of class c, and m the mean of all n_c.

    For the logits of class c, anchors of that class and all other anchors are then weighted in the ratio
    alpha_c : (1 - alpha_c) = m : n_c. A class of average frequency gets 1/2, a rarer class more.
    """
    counts = [max(1, count) for count in class_counts]
    mean = sum(counts) / len(counts)
    return tuple(mean / (mean + count) for count in counts)
