"""Compare cross entropy and the focal loss at a class imbalance of 1 to 1000, in minutes on a CPU.

The data are random points in the plane. The rare points form a spiral. A few of the common points are hard: they form
the mirrored spiral, close to the rare points. Most common points are easy and lie far from both spirals. A small
network learns to tell rare points from common ones. As in the detector, the loss is summed and divided by the number of
rare points, and the bias of the last layer is initialised from the prior.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retinanet.ablation.report import MISSING, format_mean, format_p
from retinanet.evaluation.significance import SIGNIFICANCE_LEVEL, holm, summarise, welch
from retinanet.losses.sigmoid import SigmoidFocalLoss
from retinanet.runtime.console import progress
from retinanet.visualization.plots import Chart, Series

COMMON_PER_RARE, HARD_PER_RARE = 1000, 5  # common points per rare point, and how many of them are hard
NOISE = 0.08  # standard deviation around the spirals, which have a radius of 1
MIN_EASY_RADIUS, EASY_RING_WIDTH = 1.2, 3.0  # ring that contains the easy common points
PRIOR = 0.01


class LossVariant(NamedTuple):
    """A focal loss with its parameters; gamma 0 is cross entropy."""

    name: str
    alpha: float  # with 0.5, rare and common points have equal weight
    gamma: float


LOSS_VARIANTS = (
    LossVariant("cross entropy", 0.5, 0.0),
    LossVariant("cross entropy, alpha 0.75", 0.75, 0.0),
    LossVariant("cross entropy, alpha 0.99", 0.99, 0.0),
    LossVariant("focal loss, alpha 0.25, gamma 2", 0.25, 2.0),
)


def draw_points(num_rare: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw points (N, 2) and labels (N,): 0 for rare points, which come first, and 1 (no class) for common points."""

    def spiral(count: int, start: float) -> Tensor:
        along = torch.rand(count, generator=generator).sqrt()
        noise = NOISE * torch.randn(count, 2, generator=generator)
        return _at(along, start + 2 * math.pi * along) + noise

    rare, hard = spiral(num_rare, 0.0), spiral(HARD_PER_RARE * num_rare, math.pi)
    num_easy = (COMMON_PER_RARE - HARD_PER_RARE) * num_rare
    easy = _at(
        MIN_EASY_RADIUS + EASY_RING_WIDTH * torch.rand(num_easy, generator=generator),
        2 * math.pi * torch.rand(num_easy, generator=generator),
    )
    points = torch.cat([rare, hard, easy])
    return points, (torch.arange(len(points)) >= num_rare).long()


def _at(distance: Tensor, angle: Tensor) -> Tensor:
    return distance[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def average_precision(scores: Tensor, is_rare: Tensor) -> float:
    """Area under the precision-recall curve, computed as the mean precision at the rank of each rare point.

    Points with equal scores get the same rank, so a constant score yields the fraction of rare points.
    """
    levels, level_of, counts = scores.unique(return_inverse=True, return_counts=True)  # ascending
    hits = torch.zeros(len(levels), dtype=torch.float64).index_add_(0, level_of, is_rare.double())
    precision = hits.flip(0).cumsum(0) / counts.flip(0).cumsum(0)
    return float((precision * hits.flip(0)).sum() / hits.sum())


def train_one(variant: LossVariant, seed: int, *, num_rare: int = 200, steps: int = 600, batch: int = 2048) -> float:
    """Train one network and return its AP on new points. The seed determines points, batches and initial weights."""
    generator = torch.Generator().manual_seed(seed)
    points, labels = draw_points(num_rare, generator)
    test_points, test_labels = draw_points(num_rare, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    nn.init.constant_(model[-1].bias, -math.log((1 - PRIOR) / PRIOR))
    loss_sum = SigmoidFocalLoss(alpha=variant.alpha, gamma=variant.gamma)
    # Adam is invariant to scaling the loss, so alpha only sets the weight of rare points relative to common ones.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    valid = torch.ones(batch, dtype=torch.bool)
    for _ in range(steps):
        chosen = torch.randint(len(points), (batch,), generator=generator)
        num_rare_in_batch = (labels[chosen] == 0).sum().clamp(min=1)
        loss = loss_sum(model(points[chosen]), labels[chosen], valid) / num_rare_in_batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return average_precision(model(test_points)[:, 0], test_labels == 0)


def compare(num_seeds: int) -> dict[str, list[float]]:
    """Train with every loss and every seed; return the average precisions by loss name."""
    runs = [(variant, seed) for variant in LOSS_VARIANTS for seed in range(num_seeds)]
    scores: dict[str, list[float]] = {}
    for variant, seed in progress(runs, "training", None):
        scores.setdefault(variant.name, []).append(train_one(variant, seed))
    return scores


def markdown(scores: dict[str, list[float]]) -> str:
    """Format the results as a Markdown table that compares each row with the last one, the focal loss."""
    baseline = list(scores)[-1]
    versus = {name: welch(values, scores[baseline]) for name, values in scores.items() if name != baseline}
    p_values = dict(zip(versus, holm([comparison.p for comparison in versus.values()]), strict=True))
    lines = [
        f"# One rare point per {COMMON_PER_RARE} common points, {HARD_PER_RARE} of them hard",
        "",
        "| loss | average precision | lowest and highest | n | difference | p |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, values in scores.items():
        cells = [
            name,
            format_mean(summarise(values), digits=3),
            f"{min(values):.3f}, {max(values):.3f}",
            str(len(values)),
            f"{versus[name].difference:+.3f}" if name in versus else MISSING,
            format_p(p_values.get(name, math.nan)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Mean ± standard deviation over seeds; difference from the last row; p: two-sided Welch's t-test with "
            f"Holm's correction for the number of rows, * marks p < {SIGNIFICANCE_LEVEL}. The data are synthetic, with "
            "many easy and few hard points by design: they illustrate the mechanism, but do not show that the focal "
            "loss is better on other data.",
            "",
        ]
    )


def chart(scores: dict[str, Sequence[float]]) -> Chart:
    """Plot the average precision of each loss: mean, standard deviation, and individual seeds."""
    summaries = [summarise(values) for values in scores.values()]
    places = list(range(len(scores)))
    seeds = [(place, value) for place, values in enumerate(scores.values()) for value in values]
    return Chart(
        f"One rare point per {COMMON_PER_RARE} common points",
        "",
        "average precision",
        [
            Series(
                "mean and standard deviation",
                places,
                [summary.mean for summary in summaries],
                spread=[0.0 if summary.count < 2 else summary.deviation for summary in summaries],
                style="points",
            ),
            Series("each seed", [place + 0.15 for place, _ in seeds], [value for _, value in seeds], style="points"),
        ],
        ticks=dict(zip(places, scores, strict=True)),
    )
