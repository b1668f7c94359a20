"""Focal loss as plain differentiable operations: the definition that the kernels in `focal_kernels.py` evaluate.

Both modes use one formula for hard and soft labels y in 0..1: each term of the cross entropy is multiplied by
|y - p|^gamma. With a label of 0 or 1, |y - p| is 1 - p_t, which gives Lin et al. 2017, eq. 4; with fractional labels,
it is the quality focal loss (Li et al. 2020, eq. 3), which is 0 at p = y. A softmax over two classes equals the
sigmoid of the difference of their logits, for any labels.

Logits are (N, C, S): samples, classes, positions. Derivatives of any order exist, and are finite for finite logits and
hard labels. Where y - p rounds to 0, the derivative of its power is taken as 0.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.chunking import working_type
from retinanet.losses.softmax_focal import other_logits

Reduction = Literal["mean", "sum", "none"]
Alpha = float | tuple[float, ...] | None


@dataclass(frozen=True)
class SigmoidTerms:
    """Losses of independent binary predictions, one per logit.

    Attributes:
        alpha: weight of label 1, one number or one per class; label 0 has weight 1 - alpha. None weights both by 1.
        gamma: focusing exponent; 0 is `binary_cross_entropy_with_logits`, bit for bit.
        label_smoothing: moves labels towards 1/2, by this share of the distance.
        ignore_index: target whose losses are 0.
        of_classes: whether targets are class indices, with C for "no class", or labels.
    """

    alpha: Alpha
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
        return torch.where(valid, losses, 0)

    def hard_margins(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """For labels 0 and 1: z (see `margin.py`), its derivative by the logits, and the weights; None for others.

        Arguments are as in a call; the results are (n, C, s).
        """
        if self.gamma == 0 or self.label_smoothing or (targets.is_floating_point() and targets.device.type != "cpu"):
            return None  # reading labels from an accelerator would wait for it
        logits, labels, valid = self._masked(logits, targets)
        if targets.is_floating_point() and not ((labels == 0) | (labels == 1)).all():
            return None
        sign = 1 - 2 * labels
        weights = self._weights(labels)
        return logits * sign, sign, valid.to(logits.dtype) if weights is None else torch.where(valid, weights, 0)

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
            return torch.where(valid, derivatives, 0)
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

    def _masked(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and labels in the dtype of the loss, 0 where they are ignored, and where they are not."""
        logits = logits.to(working_type(logits))
        if self.of_classes:
            valid = targets != self.ignore_index
            labels = (targets == torch.arange(logits.shape[1], device=logits.device)[:, None]).to(logits.dtype)
        else:
            labels = targets.to(logits.dtype)  # before the comparison: 8-bit integers do not include -100
            valid = labels != self.ignore_index
            labels = torch.where(valid, labels, 0)
        return torch.where(valid, logits, 0), labels, valid  # so that an ignored infinite or NaN logit has no effect

    def _weights(self, labels: Tensor) -> Tensor | None:
        if self.alpha is None:
            return None
        alpha = per_class(self.alpha, labels) if isinstance(self.alpha, tuple) else self.alpha
        return alpha * labels + (1 - alpha) * (1 - labels)


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

    alpha: Alpha
    gamma: float
    label_smoothing: float
    ignore_index: int
    of_classes: bool

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute one loss per target: (n, C, s), and indices (n, 1, s) or labels (n, C, s) -> (n, 1, s)."""
        logits = logits.to(working_type(logits))
        num_classes = logits.shape[1]
        valid = None
        if self.of_classes:
            valid = targets != self.ignore_index
            logits = torch.where(valid, logits, 0)
            labels = (targets == torch.arange(num_classes, device=logits.device)[:, None]).to(logits.dtype)
        else:
            labels = targets.to(logits.dtype)
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + self.label_smoothing / num_classes
        terms = softmax_focal_terms(logits, labels, self.gamma)
        if self.alpha is not None:
            terms = terms * (per_class(self.alpha, terms) if isinstance(self.alpha, tuple) else self.alpha)
        losses = terms.sum(1, keepdim=True)
        return losses if valid is None else torch.where(valid, losses, 0)


def per_class(weights: tuple[float, ...], like: Tensor) -> Tensor:
    """Return weights as a tensor (C, 1), with the dtype and device of `like`."""
    return torch.tensor(weights, dtype=like.dtype, device=like.device)[:, None]


def binary_focal_terms(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute |y - p|^gamma (-y log(p) - (1 - y) log(1 - p)) elementwise, for p = sigmoid(logit)."""
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    is_one, is_zero = labels == 1, labels == 0
    # A product of 0 and an infinite logarithm would be NaN.
    entropy = -torch.where(is_zero, 0, labels * log_p) - torch.where(is_one, 0, (1 - labels) * log_q)
    # The obvious y - p would round a small error to 0.
    distance = (labels * log_q.exp() - (1 - labels) * log_p.exp()).abs()
    soft = _power(distance, gamma)
    # For hard labels, the logarithm of the distance is known, and stays finite where the distance itself underflows.
    hard = torch.exp(gamma * torch.where(is_one, log_q, log_p))
    return torch.where(is_one | is_zero, hard, soft) * entropy


def softmax_focal_terms(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute -y |y - p|^gamma log(p) for each class, for p = softmax(logits): (n, C, s), (n, C, s) -> (n, C, s)."""
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    # Of the most probable class, compute 1 - p and log(p) from the other classes: p itself may round to 1.
    top = logits.argmax(1, keepdim=True)
    others = p.scatter(1, top, 0).sum(1, keepdim=True)
    q = (1 - p).scatter(1, top, others)
    log_p = log_p.scatter(1, top, torch.log1p(-others))
    terms = labels * _power((labels * q - (1 - labels) * p).abs(), gamma) * log_p
    return -torch.where(labels == 0, 0, terms)


def softmax_margin_terms(rows: Tensor, index: Tensor, gamma: float) -> Tensor:
    """Compute (1 - p_c)^gamma (-log p_c) of the true class c: (R, C), (R,) int64 -> (R,).

    It is the sigmoid's loss of z = logsumexp(other logits) - target logit, with label 0 (see `softmax_focal.py`).
    """
    column = index[:, None]
    target = rows.to(working_type(rows)).gather(1, column).squeeze(1)
    z = other_logits(rows, column).logsumexp(1) - target
    return -torch.exp(gamma * F.logsigmoid(z)) * F.logsigmoid(-z)


def _power(distance: Tensor, gamma: float) -> Tensor:
    """distance^gamma, with derivative 0 where the distance is 0 or subnormal."""
    positive = distance >= torch.finfo(distance.dtype).tiny
    return torch.where(positive, torch.where(positive, distance, 1).pow(gamma), 0)
