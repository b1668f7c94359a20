"""Distribution of the class loss over examples: the data for figures 1 and 4 of Lin et al. (2017).

An example is one class logit x of an anchor that is not ignored: positive if the anchor is assigned to that class,
otherwise negative. With z = -x for positive and z = x for negative examples, p_t = sigmoid(-z), and every focal loss
increases with z. One histogram of z is therefore enough for every gamma, and its size does not depend on the number of
images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.detection.assignment import Assignment
from retinanet.losses.sigmoid import SigmoidFocalLoss
from retinanet.structures import HeadOutputs, Targets

BINS_PER_UNIT = 128  # bins per unit of z: individual losses are accurate to 1%, sums far more so
LIMIT = 40  # limit of |z|; beyond it the loss is 0 in float32, or grows at most linearly


class LogitCounts:
    """Histograms of z for positive and negative examples, with bins centred on multiples of 1 / BINS_PER_UNIT."""

    def __init__(self):
        self.positive = torch.zeros(2 * LIMIT * BINS_PER_UNIT + 1, dtype=torch.int64)
        self.negative = torch.zeros_like(self.positive)

    def add(self, outputs: HeadOutputs, assignment: Assignment, targets: Targets) -> None:
        """Count the class logits of a batch from a detector with sigmoid classes."""
        sizes = [level.shape[1] for level in outputs.class_logits]
        gt_index = assignment.gt_index.split(sizes, dim=1)
        positive = assignment.positive.split(sizes, dim=1)
        negative = assignment.negative.split(sizes, dim=1)
        for level, logits in enumerate(outputs.class_logits):
            labels = targets.labels.gather(1, gt_index[level])
            target_logits = logits.gather(2, labels[..., None])[..., 0]
            self.positive += _count(-target_logits[positive[level]])
            is_negative = (positive[level] | negative[level])[..., None].repeat(1, 1, logits.shape[2])
            is_negative.scatter_(2, labels[..., None], negative[level][..., None])
            if targets.is_complete is not None:
                is_negative &= targets.is_complete[:, None]
            self.negative += _count(logits[is_negative])


def _count(z: Tensor) -> Tensor:
    bins = (z.float().clamp(-LIMIT, LIMIT) * BINS_PER_UNIT).round().long() + LIMIT * BINS_PER_UNIT
    return torch.bincount(bins.flatten(), minlength=2 * LIMIT * BINS_PER_UNIT + 1).cpu()


def bin_centers() -> Tensor:
    """z at the centre of each bin, float64."""
    return (torch.arange(2 * LIMIT * BINS_PER_UNIT + 1, dtype=torch.float64) - LIMIT * BINS_PER_UNIT) / BINS_PER_UNIT


def bin_losses(gamma: float) -> Tensor:
    """Focal loss without alpha at the centre of each bin, float64."""
    z = bin_centers()
    return torch.sigmoid(z) ** gamma * F.softplus(z)


class Curve(NamedTuple):
    """Points of a curve to plot."""

    x: list[float]
    y: list[float]


def cumulative_share(counts: Tensor, gamma: float, *, points: int = 201) -> Curve:
    """Figure 4: fraction of the loss in the easiest fraction x of the examples, for evenly spaced x.

    Args:
        counts: a histogram from `LogitCounts`, with at least one example.
    """
    loss = counts * bin_losses(gamma)
    zero = torch.zeros(1, dtype=torch.float64)
    examples = torch.cat([zero, counts.cumsum(0).double() / counts.sum()])  # dividing integers would give float32
    shares = torch.cat([zero, loss.cumsum(0) / loss.sum()])
    x = torch.linspace(0, 1, points, dtype=torch.float64)
    # All examples in a bin have the same loss, so the curve is linear within it.
    right = torch.searchsorted(examples, x).clamp(min=1)
    left = right - 1
    width = (examples[right] - examples[left]).clamp(min=1e-300)
    y = shares[left] + (shares[right] - shares[left]) * (x - examples[left]) / width
    return Curve(x.tolist(), y.tolist())


def share_of_hardest(counts: Tensor, gamma: float, hardest: float) -> float:
    """Fraction of the loss that comes from the hardest fraction of the examples; `counts` must not be empty."""
    number, losses = counts.flip(0), bin_losses(gamma).flip(0)
    before = number.cumsum(0) - number
    # Examples taken from each bin, hardest first; the last of these bins may be split.
    taken = (hardest * number.sum() - before).clamp(min=0).minimum(number)
    return float((taken * losses).sum() / (number * losses).sum())


class LossParts(NamedTuple):
    """Fractions of the class loss from hard (p_t < 0.5) and easy examples; they sum to 1."""

    hard_positive: float
    easy_positive: float
    hard_negative: float
    easy_negative: float


def loss_parts(counts: LogitCounts, *, alpha: float, gamma: float) -> LossParts:
    """Split the focal loss into the contributions of hard and easy, positive and negative examples."""
    losses, is_hard = bin_losses(gamma), bin_centers() > 0
    positive, negative = alpha * losses * counts.positive, (1 - alpha) * losses * counts.negative
    parts = [part[chosen].sum() for part in (positive, negative) for chosen in (is_hard, ~is_hard)]
    return LossParts(*(torch.stack(parts) / torch.stack(parts).sum()).tolist())


def score_histograms(counts: LogitCounts, *, bins: int = 50) -> tuple[list[float], list[float], list[float]]:
    """Centres of the score bins, and the fractions of positive and of negative examples in each bin."""

    def shares(examples: Tensor, score: Tensor) -> list[float]:
        bin_index = (score * bins).long().clamp(max=bins - 1)
        return (
            torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_index, examples.double())
            / examples.sum().clamp(min=1)
        ).tolist()

    scores = torch.sigmoid(bin_centers())
    centers = [(index + 0.5) / bins for index in range(bins)]
    return centers, shares(counts.positive, 1 - scores), shares(counts.negative, scores)


def loss_curve(gamma: float, probabilities: Sequence[float]) -> tuple[Curve, Curve]:
    """Figure 1: the training loss at each p_t, and the absolute value of its derivative with respect to the logit.

    Args:
        probabilities: values of p_t, above 0 and below 1.
    """
    focal = SigmoidFocalLoss(alpha=1.0, gamma=gamma)
    losses, derivatives = [], []
    for p in probabilities:
        logit = torch.tensor([[p]], dtype=torch.float64).logit().requires_grad_()
        loss = focal(logit, torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool))
        loss.backward()
        losses.append(float(loss.detach()))
        derivatives.append(abs(float(logit.grad)))
    return Curve(list(probabilities), losses), Curve(list(probabilities), derivatives)
