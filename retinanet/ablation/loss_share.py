"""Which examples a detector's class loss comes from: the data of figures 1 and 4 of Lin et al. 2017.

An example is one logit of an anchor that counts: a positive one where the anchor is of that class, else a negative one.
With z = -x for the first kind and z = x for the second, p_t = sigmoid(-z), and every focal loss grows with z. So
counting how often each z occurs is all there is to know: any number of images fits, and a gamma can be chosen
afterwards.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.detection.assignment import Assignment
from retinanet.losses.focal import SigmoidFocal
from retinanet.structures import HeadOutputs, Targets

BINS_A_UNIT = 128  # of z: a loss is known to 1 %, and a sum of many far better
LIMIT = 40  # z beyond is counted there: its loss is 0 to float32, or grows no more than linearly


class LogitCounts:
    """How often each z was seen, in bins around the multiples of 1 / BINS_A_UNIT."""

    def __init__(self):
        self.positive = torch.zeros(2 * LIMIT * BINS_A_UNIT + 1, dtype=torch.int64)
        self.negative = torch.zeros_like(self.positive)

    def add(self, predictions: HeadOutputs, assignment: Assignment, targets: Targets) -> None:
        """A batch, with sigmoid class logits."""
        sizes = [level.shape[1] for level in predictions.class_logits]
        gt_index, positive, negative = (part.split(sizes, dim=1) for part in assignment)
        for level, logits in enumerate(predictions.class_logits):
            labels = targets.labels.gather(1, gt_index[level])
            own = logits.gather(2, labels[..., None])[..., 0]
            self.positive += _count(-own[positive[level]])
            is_other = (positive[level] | negative[level])[..., None].repeat(1, 1, logits.shape[2])
            is_other.scatter_(2, labels[..., None], negative[level][..., None])
            self.negative += _count(logits[is_other])


def _count(z: Tensor) -> Tensor:
    places = (z.float().clamp(-LIMIT, LIMIT) * BINS_A_UNIT).round().long() + LIMIT * BINS_A_UNIT
    return torch.bincount(places.flatten(), minlength=2 * LIMIT * BINS_A_UNIT + 1).cpu()


def bin_centers() -> Tensor:
    return (torch.arange(2 * LIMIT * BINS_A_UNIT + 1, dtype=torch.float64) - LIMIT * BINS_A_UNIT) / BINS_A_UNIT


def bin_losses(gamma: float) -> Tensor:
    """Focal loss at the centre of each bin, without alpha, float64."""
    z = bin_centers()
    return torch.sigmoid(z) ** gamma * F.softplus(z)


class Curve(NamedTuple):
    x: list[float]
    y: list[float]


def cumulative_share(counts: Tensor, gamma: float, *, points: int = 201) -> Curve:
    """Figure 4: the share of the loss that the easiest share x of the examples has, for even steps of x.

    Args:
        counts: of `LogitCounts`, with at least one example.
    """
    loss = counts * bin_losses(gamma)
    zero = torch.zeros(1, dtype=torch.float64)
    examples = torch.cat([zero, counts.cumsum(0).double() / counts.sum()])  # their own division would be in float32
    shares = torch.cat([zero, loss.cumsum(0) / loss.sum()])
    x = torch.linspace(0, 1, points, dtype=torch.float64)
    # Within a bin all examples are alike, so that the curve is straight from corner to corner.
    right = torch.searchsorted(examples, x).clamp(min=1)
    left = right - 1
    width = (examples[right] - examples[left]).clamp(min=1e-300)
    y = shares[left] + (shares[right] - shares[left]) * (x - examples[left]) / width
    return Curve(x.tolist(), y.tolist())


def share_of_hardest(counts: Tensor, gamma: float, hardest: float) -> float:
    """The share of the loss that the hardest share of the examples has; at least one example."""
    number, losses = counts.flip(0), bin_losses(gamma).flip(0)
    before = number.cumsum(0) - number
    taken = (hardest * number.sum() - before).clamp(min=0).minimum(number)  # of each bin, the last one in part
    return float((taken * losses).sum() / (number * losses).sum())


class LossParts(NamedTuple):
    """Shares of the whole class loss; hard is p_t below 0.5. They add up to 1."""

    hard_positive: float
    easy_positive: float
    hard_negative: float
    easy_negative: float


def loss_parts(counts: LogitCounts, *, alpha: float, gamma: float) -> LossParts:
    losses, is_hard = bin_losses(gamma), bin_centers() > 0
    positive, negative = alpha * losses * counts.positive, (1 - alpha) * losses * counts.negative
    parts = [part[chosen].sum() for part in (positive, negative) for chosen in (is_hard, ~is_hard)]
    return LossParts(*(torch.stack(parts) / torch.stack(parts).sum()).tolist())


def score_shares(counts: LogitCounts, *, bins: int = 50) -> tuple[list[float], list[float], list[float]]:
    """Middles of even bins of the score, and the share of positive and of negative examples in each."""

    def shares(own: Tensor, score: Tensor) -> list[float]:
        place = (score * bins).long().clamp(max=bins - 1)
        return (
            torch.zeros(bins, dtype=torch.float64).index_add_(0, place, own.double()) / own.sum().clamp(min=1)
        ).tolist()

    scores = torch.sigmoid(bin_centers())
    middles = [(place + 0.5) / bins for place in range(bins)]
    return middles, shares(counts.positive, 1 - scores), shares(counts.negative, scores)


def loss_curve(gamma: float, probabilities: Sequence[float]) -> tuple[Curve, Curve]:
    """Figure 1: the loss at each p_t, and the absolute value of its slope in the logit, as training has them.

    Args:
        probabilities: above 0 and below 1.
    """
    focal = SigmoidFocal(alpha=1.0, gamma=gamma)
    losses, slopes = [], []
    for p in probabilities:
        logit = torch.tensor([[p]], dtype=torch.float64).logit().requires_grad_()
        loss = focal(logit, torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool))
        loss.backward()
        losses.append(float(loss.detach()))
        slopes.append(abs(float(logit.grad)))
    return Curve(list(probabilities), losses), Curve(list(probabilities), slopes)
