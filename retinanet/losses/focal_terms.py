"""The losses of both modes for given targets and settings: labels, smoothing, weights and ignored targets.

Logits are (N, C, S): samples, classes, positions. A call can be differentiated any number of times; `values` and
`gradient` compute the same without recording operations, several times faster. The formulas are in `focal_formulas.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.chunking import working_type
from retinanet.losses.focal_formulas import (
    binary_focal_derivatives,
    binary_focal_terms,
    binary_focal_values,
    softmax_focal_gradient,
    softmax_focal_terms,
    softmax_focal_values,
)
from retinanet.losses.focal_weights import Weights


@dataclass(frozen=True)
class SigmoidTerms:
    """Losses of independent binary predictions, one per logit.

    Attributes:
        weights: of label 1 and of label 0, each one number or one per class; None is 1 for both.
        gamma: focusing exponent; 0 is `binary_cross_entropy_with_logits`, bit for bit.
        label_smoothing: moves labels towards 1/2, by this share of the distance.
        ignore_index: target whose losses are 0.
        of_classes: whether targets are class indices, with C for "no class", or labels.
    """

    weights: tuple[Weights, Weights] | None
    gamma: float
    label_smoothing: float
    ignore_index: int
    of_classes: bool

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute one loss per logit: (n, C, s), and class indices (n, 1, s) or labels (n, C, s) -> (n, C, s)."""
        logits, labels, valid = self._masked(logits, targets)
        labels = self._smoothed(labels)
        weights = self._weights(labels)
        if self.gamma == 0:
            losses = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none")
        else:
            losses = binary_focal_terms(logits, labels, self.gamma)
            losses = losses if weights is None else losses * weights
        return _kept(valid, losses)

    def values(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the losses for gamma above 0 as a call does, but faster, and without recording operations."""
        logits, labels, valid = self._masked(logits, targets, read=True)
        labels = self._smoothed(labels)
        losses = binary_focal_values(logits, labels, self.gamma)
        return _kept(valid, self._times_weights(losses, labels))

    def gradient(self, scale: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the derivatives of `values` times a scale () or (n, C, s), in the dtype of the loss."""
        logits, labels, valid = self._masked(logits, targets, read=True)
        labels = self._smoothed(labels)
        derivatives = binary_focal_derivatives(logits, labels, self.gamma).mul_(scale)
        return _kept(valid, self._times_weights(derivatives, labels))

    def without_one_hot(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Compute the cross entropy of class indices as a call does, but without labels as large as the logits."""
        valid = classes != self.ignore_index
        logits = torch.where(valid, logits.to(working_type(logits)), 0)
        zero, one = self._smoothed(logits.new_tensor([0.0, 1.0]))
        log_p = F.logsigmoid(logits)
        column, has_class = self._columns(logits, classes)
        of_class = (1 - one) * logits.gather(1, column) - log_p.gather(1, column)
        losses = (1 - zero) * logits - log_p
        losses = self._weighted(losses, of_class, zero, one, column, has_class)
        return torch.where(valid, losses, 0)

    def cross_entropy_derivative(self, logits: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        """Compute the derivatives of the cross entropy times a scale () or (N, C, S), in the dtype of the loss."""
        if not self.of_classes:
            logits, labels, valid = self._masked(logits, targets)
            labels = self._smoothed(labels)
            weights = self._weights(labels)
            derivatives = (torch.sigmoid(logits) - labels) * scale
            derivatives = derivatives if weights is None else derivatives * weights
            return _kept(valid, derivatives)
        valid = targets != self.ignore_index
        p = torch.sigmoid(torch.where(valid, logits.to(working_type(logits)), 0))
        zero, one = self._smoothed(p.new_tensor([0.0, 1.0]))
        column, has_class = self._columns(p, targets)
        of_class = (p.gather(1, column) - one) * (scale.gather(1, column) if scale.ndim else scale)
        derivatives = self._weighted((p - zero) * scale, of_class, zero, one, column, has_class)
        return torch.where(valid, derivatives, 0)

    def _columns(self, logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return class indices clamped to 0..C-1, and where they were in this range: (N, 1, S) each."""
        column = classes.clamp(0, logits.shape[1] - 1)
        return column, (column == classes) & (classes != self.ignore_index)

    def _weighted(
        self, losses: Tensor, of_class: Tensor, zero: Tensor, one: Tensor, column: Tensor, has_class: Tensor
    ) -> Tensor:
        """Weight values (N, C, S) of label 0 and (N, 1, S) of label 1, and put the latter in their columns."""
        of_zero, of_one = self._weights(zero), self._weights(one)
        if of_zero is not None and of_one is not None:
            losses = losses * of_zero
            of_class = of_class * (of_one.squeeze(1)[column] if of_one.ndim else of_one)
        return losses.scatter(1, column, torch.where(has_class, of_class, losses.gather(1, column)))

    def _smoothed(self, labels: Tensor) -> Tensor:
        return labels * (1 - self.label_smoothing) + self.label_smoothing / 2 if self.label_smoothing else labels

    def _masked(self, logits: Tensor, targets: Tensor, *, read: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits and labels in the dtype of the loss, 0 where they are ignored, and where they are not.

        Args:
            read: on a CPU, return None for the last if nothing is ignored; elsewhere, this would wait for the device.
        """
        logits = logits.to(working_type(logits))
        read = read and logits.device.type == "cpu" and logits.numel() > 0
        if self.of_classes:
            labels = one_hot(targets, logits)
            valid = targets != self.ignore_index
            if read and valid.all():
                return logits, labels, None
        else:
            labels = targets.to(logits.dtype)  # before the comparison: 8-bit integers do not include -100
            if read:
                low, high = labels.aminmax()  # several times faster than a comparison
                if 0 <= low and high <= 1:
                    return logits, labels, None
            valid = labels != self.ignore_index
            labels = torch.where(valid, labels, 0)
        return torch.where(valid, logits, 0), labels, valid  # so that an ignored infinite or NaN logit has no effect

    def _weights(self, labels: Tensor) -> Tensor | None:
        if self.weights is None:
            return None
        positive, negative = (_factor(part, labels) for part in self.weights)
        return positive * labels + negative * (1 - labels)

    def _times_weights(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Multiply by the weights in place, several times faster than `_weights`, but not always to the last bit."""
        if self.weights is None:
            return losses
        positive, negative = (per_class(part if isinstance(part, tuple) else (part,), labels) for part in self.weights)
        return losses.mul_(torch.lerp(negative, positive, labels))


@dataclass(frozen=True)
class SoftmaxTerms:
    """Losses of a softmax over the classes, one per target, for soft or smoothed labels.

    Attributes:
        alpha: weight of each class, one number or one per class; None is 1.
        gamma: focusing exponent.
        label_smoothing: moves labels towards 1 / C, by this share of the distance.
        ignore_index: class index whose loss is 0.
        of_classes: whether targets are class indices, or probabilities.
    """

    alpha: Weights | None
    gamma: float
    label_smoothing: float
    ignore_index: int
    of_classes: bool

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute one loss per target: (n, C, s), and indices (n, 1, s) or labels (n, C, s) -> (n, 1, s)."""
        logits, labels, valid = self._prepared(logits, targets)
        terms = softmax_focal_terms(logits, labels, self.gamma)
        if self.alpha is not None:
            terms = terms * _factor(self.alpha, terms)
        losses = terms.sum(1, keepdim=True)
        return _kept(valid, losses)

    def values(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the losses as a call does, but faster, and without recording operations."""
        logits, labels, valid = self._prepared(logits, targets, read=True)
        terms = softmax_focal_values(logits, labels, self.gamma)
        if self.alpha is not None:
            terms.mul_(_factor(self.alpha, terms))
        return _kept(valid, terms.sum(1, keepdim=True))

    def gradient(self, scale: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradient of the losses times a scale (n, 1, s): (n, C, s), in the dtype of the loss."""
        logits, labels, valid = self._prepared(logits, targets, read=True)
        if self.alpha is not None:
            scale = scale * _factor(self.alpha, scale)
        return _kept(valid, softmax_focal_gradient(logits, labels, self.gamma, scale))

    def _prepared(self, logits: Tensor, targets: Tensor, *, read: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, smoothed labels (n, C, s), and where targets are not ignored, (n, 1, s), or None for no mask.

        Args:
            read: on a CPU, return None if nothing is ignored; elsewhere, this would wait for the device.
        """
        logits = logits.to(working_type(logits))
        num_classes = logits.shape[1]
        valid = None
        if self.of_classes:
            labels = one_hot(targets, logits)
            valid = targets != self.ignore_index
            if read and logits.device.type == "cpu" and valid.all():
                valid = None
            else:
                logits = torch.where(valid, logits, 0)
        else:
            labels = targets.to(logits.dtype)
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + self.label_smoothing / num_classes
        return logits, labels, valid


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """Labels 0 and 1 of class indices (n, 1, s), with the shape, dtype and device of logits (n, C, s)."""
    column = classes.clamp(0, like.shape[1] - 1)
    return torch.zeros_like(like).scatter(1, column, (column == classes).to(like.dtype))


def per_class(weights: tuple[float, ...], like: Tensor) -> Tensor:
    """Return weights as a tensor (C, 1), with the dtype and device of `like`."""
    return torch.tensor(weights, dtype=like.dtype, device=like.device)[:, None]


def _factor(weights: Weights, like: Tensor) -> float | Tensor:
    """Return weights per class as `per_class` does; one number is unchanged."""
    return per_class(weights, like) if isinstance(weights, tuple) else weights


def _kept(valid: Tensor | None, values: Tensor) -> Tensor:
    """Return the values, with 0 where targets are ignored."""
    return values if valid is None else torch.where(valid, values, 0)
