import math

import pytest
import torch
from torch import Tensor

from retinanet.ablation.loss_share import (
    BINS_PER_UNIT,
    LIMIT,
    LogitCounts,
    cumulative_share,
    loss_curve,
    loss_parts,
    score_histograms,
    share_of_hardest,
)
from retinanet.detection.assignment import Assignment
from retinanet.structures import HeadOutputs, Targets

GAMMAS = [0.0, 0.5, 2.0]


@pytest.fixture(scope="module")
def batch() -> tuple[HeadOutputs, Assignment, Targets]:
    """Two images, two levels of 40 and 10 anchors, three classes."""
    generator = torch.Generator().manual_seed(0)
    logits = [4 * torch.randn(2, count, 3, generator=generator) for count in (40, 10)]
    kind = torch.rand(2, 50, generator=generator)
    targets = Targets(
        boxes=torch.tensor([[[0.0, 0.0, 9.0, 9.0]] * 2] * 2),
        labels=torch.tensor([[2, 0], [1, 1]]),
        is_object=torch.ones(2, 2, dtype=torch.bool),
        is_crowd=torch.zeros(2, 2, dtype=torch.bool),
    )
    gt_index = torch.randint(2, (2, 50), generator=generator)
    assignment = Assignment(gt_index, positive=kind < 0.3, negative=kind > 0.5)
    return HeadOutputs(logits, [torch.zeros(2, n, 4) for n in (40, 10)], []), assignment, targets


def probabilities(batch) -> tuple[Tensor, Tensor]:
    """p_t of positive and of negative examples, in a loop over all anchors that are not ignored."""
    outputs, assignment, targets = batch
    logits = torch.cat(outputs.class_logits, 1).double()
    positive, negative = [], []
    for image in range(2):
        for anchor in range(50):
            scores = logits[image, anchor].sigmoid()
            if assignment.positive[image, anchor]:
                target = targets.labels[image, assignment.gt_index[image, anchor]]
                positive.append(scores[target])
                negative += [1 - scores[other] for other in range(3) if other != target]
            elif assignment.negative[image, anchor]:
                negative += (1 - scores).tolist()
    return torch.tensor(positive).double(), torch.tensor(negative).double()


def focal(p: Tensor, gamma: float) -> Tensor:
    return -((1 - p) ** gamma) * p.log()


@pytest.fixture(scope="module")
def counts(batch) -> LogitCounts:
    result = LogitCounts()
    result.add(*batch)
    return result


def test_incomplete_classes_are_examples_only_for_their_own_anchors(batch):
    outputs, assignment, targets = batch
    is_complete = torch.tensor([[True, False, True], [False, False, True]])
    result, positive, negative = LogitCounts(), 0, 0
    result.add(outputs, assignment, targets._replace(is_complete=is_complete))
    labels = targets.labels.gather(1, assignment.gt_index)
    for image, anchor in (assignment.positive | assignment.negative).nonzero().tolist():
        own = int(labels[image, anchor]) if assignment.positive[image, anchor] else None
        positive += own is not None
        negative += sum(bool(is_complete[image, label]) for label in range(3) if label != own)
    assert (result.positive.sum(), result.negative.sum()) == (positive, negative)


def test_all_examples_are_counted_once(batch, counts):
    positive, negative = probabilities(batch)
    assert counts.positive.sum() == len(positive) > 0
    assert counts.negative.sum() == len(negative) > 0


@pytest.mark.parametrize("gamma", GAMMAS)
def test_cumulative_share_matches_sorted_losses(batch, counts, gamma):
    for p, histogram in zip(probabilities(batch), (counts.positive, counts.negative), strict=True):
        losses = focal(p, gamma).sort().values
        curve = cumulative_share(histogram, gamma, points=len(p) + 1)
        expected = [0.0, *(losses.cumsum(0) / losses.sum()).tolist()]
        assert curve.y == pytest.approx(expected, abs=0.005)
        assert curve.x[0] == 0 and curve.x[-1] == 1
        assert curve.y[0] == 0 and curve.y[-1] == pytest.approx(1)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("share", [0.0, 0.013, 0.2, 1.0])
def test_share_of_hardest_matches_sorted_losses(batch, counts, gamma, share):
    losses = focal(probabilities(batch)[1], gamma).sort(descending=True).values
    number = share * len(losses)
    whole = int(number)
    expected = losses[:whole].sum() + (number - whole) * (losses[whole] if whole < len(losses) else 0)
    assert share_of_hardest(counts.negative, gamma, share) == pytest.approx(float(expected / losses.sum()), abs=0.005)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 0.0), (0.25, 2.0)])
def test_loss_parts_match_sums(batch, counts, alpha, gamma):
    positive, negative = probabilities(batch)
    parts = [weight * focal(p[chosen], gamma).sum()
             for p, weight in ((positive, alpha), (negative, 1 - alpha)) for chosen in (p < 0.5, p >= 0.5)]  # fmt: skip
    assert list(loss_parts(counts, alpha=alpha, gamma=gamma)) == pytest.approx(
        [float(part / sum(parts)) for part in parts], abs=0.005
    )


def test_higher_gamma_concentrates_the_loss_on_hard_negatives(counts):
    shares = [share_of_hardest(counts.negative, gamma, 0.1) for gamma in (0.0, 0.5, 1.0, 2.0)]
    assert shares == sorted(shares) and shares[0] < shares[-1]


def test_score_histograms_match_histc(batch, counts):
    positive, negative = probabilities(batch)
    centers, positive_shares, negative_shares = score_histograms(counts, bins=10)
    assert centers[0] == pytest.approx(0.05)
    assert positive_shares == pytest.approx((torch.histc(positive, 10, 0, 1) / len(positive)).tolist(), abs=0.05)
    assert negative_shares == pytest.approx((torch.histc(1 - negative, 10, 0, 1) / len(negative)).tolist(), abs=0.02)
    assert sum(positive_shares) == pytest.approx(1) and sum(negative_shares) == pytest.approx(1)


def test_few_hard_examples_among_a_billion_are_not_lost():
    counts = torch.zeros(2 * LIMIT * BINS_PER_UNIT + 1, dtype=torch.int64)
    counts[(LIMIT - 8) * BINS_PER_UNIT] = 10**9  # z = -8
    counts[(LIMIT + 10) * BINS_PER_UNIT] = 20  # z = 10: 3e-8 of the examples
    curve = cumulative_share(counts, 2.0)
    assert curve.x[-1] == 1 and curve.y[-1] == pytest.approx(1, abs=1e-12)


def test_extreme_logits_are_counted_in_the_outermost_bins():
    counts = LogitCounts()
    one = torch.ones(1, 2, dtype=torch.bool)
    no_objects = Targets(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), ~one[:, :1], ~one[:, :1])
    logits = HeadOutputs([torch.tensor([[[1e4], [-1e4]]])], [torch.zeros(1, 2, 4)], [])
    counts.add(logits, Assignment(torch.zeros(1, 2, dtype=torch.int64), ~one, one), no_objects)
    assert counts.negative[0] == counts.negative[-1] == 1
    assert share_of_hardest(counts.negative, 2.0, 0.5) == pytest.approx(1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_loss_curve_matches_the_formula_of_the_paper(gamma):
    ps = [0.01, 0.3, 0.5, 0.9]
    loss, derivative = loss_curve(gamma, ps)
    assert loss.x == ps
    assert loss.y == pytest.approx([-((1 - p) ** gamma) * math.log(p) for p in ps])
    # Lin et al. 2017, appendix B: (1 - p_t)^gamma (gamma p_t log(p_t) + p_t - 1).
    assert derivative.y == pytest.approx([abs((1 - p) ** gamma * (gamma * p * math.log(p) + p - 1)) for p in ps])
