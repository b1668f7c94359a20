"""Weights of the public focal loss: the values that `alpha` accepts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from torch import Tensor

from retinanet.losses.class_weights import inverse_frequency

Mode = Literal["softmax", "sigmoid"]
Reduction = Literal["mean", "sum", "none"]
Weights = float | tuple[float, ...]


@dataclass(frozen=True)
class InverseFrequency:
    """Class weights from the number of examples of each class, as a value for `alpha`.

    With w_c = m / n_c, where n_c >= 1 is the count of class c and m the mean of all counts: in softmax mode, class c
    has the weight w_c, so that all classes have the same total weight. In sigmoid mode, labels 1 and 0 of class c have
    weights in the ratio w_c : 1, that is, alpha_c = w_c / (1 + w_c).

    Args:
        counts: examples of each class, in class order; a sequence or a tensor (C,).
    """

    counts: Sequence[int] | Tensor

    def weights(self, mode: Mode) -> tuple[float, ...]:
        """Compute the weights.

        Raises:
            ValueError: the counts are not one non-negative number per class, or all are 0.
        """
        counts = _numbers(self.counts)
        if not counts or not all(math.isfinite(count) and count >= 0 for count in counts) or not any(counts):
            raise ValueError(
                f"counts: found {self.counts!r}, expected the number of examples of each class, with one above 0"
            )
        if mode == "sigmoid":
            return inverse_frequency(counts)
        counts = [max(1.0, count) for count in counts]
        return tuple(sum(counts) / len(counts) / count for count in counts)


@dataclass(frozen=True)
class LabelWeights:
    """Any weights of label 1 and label 0 in sigmoid mode, as a value for `alpha`.

    For labels 0 and 1, `LabelWeights(w)` is `pos_weight=w` of `binary_cross_entropy_with_logits`. `LabelWeights(w, w)`
    weights each class, whatever its label, as MONAI's and kornia's `weight` do. A label y between them has the weight
    y positive + (1 - y) negative.

    Args:
        positive: weight of label 1, at least 0: one number, or one per class.
        negative: weight of label 0, in the same form.
    """

    positive: float | Sequence[float] | Tensor
    negative: float | Sequence[float] | Tensor = 1.0


Alpha = Weights | LabelWeights | None


def plain_alpha(alpha: Any, mode: Mode) -> Alpha:
    """Check `alpha`, and convert it to a number, a tuple of numbers, `LabelWeights` of these, or None.

    Raises:
        ValueError: a weight is negative or not finite, or above 1 in sigmoid mode, or the form is wrong.
    """
    if alpha is None:
        return None
    if isinstance(alpha, InverseFrequency):
        return alpha.weights(mode)
    if isinstance(alpha, LabelWeights):
        if mode == "softmax":
            raise ValueError(
                f"alpha: found {alpha!r} in softmax mode, which has no labels 0 to weight; pass one weight per class"
            )
        return LabelWeights(_plain_weights("positive", alpha.positive), _plain_weights("negative", alpha.negative))
    weights = _plain_weights("alpha", alpha)
    highest = max(weights) if isinstance(weights, tuple) else weights
    if mode == "sigmoid" and highest > 1:
        raise ValueError(
            f"alpha: found {alpha!r}, expected weights in 0..1 in sigmoid mode: labels 1 have weight alpha, labels 0 "
            "have 1 - alpha. A weight w above 1 is ambiguous: use LabelWeights(w) to weight labels 1 only (as "
            "pos_weight), LabelWeights(w, w) to weight both labels of a class, or w / (1 + w) for the ratio w : 1"
        )
    return weights


def label_weights(alpha: Alpha) -> tuple[Weights, Weights] | None:
    """Return the weights of label 1 and of label 0 that a checked `alpha` means in sigmoid mode."""
    if alpha is None:
        return None
    if isinstance(alpha, LabelWeights):
        return _plain_weights("positive", alpha.positive), _plain_weights("negative", alpha.negative)
    return alpha, tuple(1 - weight for weight in alpha) if isinstance(alpha, tuple) else 1 - alpha


def _plain_weights(name: str, weights: Any) -> Weights:
    """Convert a number, or a sequence, array or tensor of one number per class, and check the numbers."""
    values = _numbers(weights)
    if not values:
        raise ValueError(f"{name}: found {weights!r}, expected a number or one weight per class")
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"{name}: found {weights!r}, expected finite weights of at least 0; for no weights, use None")
    is_number = not isinstance(weights, Sequence) and getattr(weights, "ndim", 0) == 0
    return values[0] if is_number else tuple(values)


def _numbers(values: Any) -> list[float]:
    """Convert a number, or a sequence, array or tensor of numbers, to a list; it is empty if that fails."""
    if hasattr(values, "tolist"):  # a tensor, or a NumPy array or number; NumPy need not be installed
        values = values.tolist()
    items = list(values) if isinstance(values, Sequence) and not isinstance(values, (str, bytes)) else [values]
    are_numbers = all(isinstance(item, Real) and not isinstance(item, bool) for item in items)
    return [float(item) for item in items] if are_numbers else []
