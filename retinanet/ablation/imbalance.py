"""Cross entropy against the focal loss on a class with a thousand times as many others, in minutes on a CPU.

Points of the plane, drawn at random. Rare ones lie along a spiral. Of the common ones a few lie along its mirror image,
close to them, and the many others far outside, easy to tell. A small network learns which is which. As in the detector,
the loss is summed and divided by the number of rare points, and the last bias begins at the prior.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retinanet.ablation.report import LEVEL, NOTHING, p_text, spread_text
from retinanet.evaluation.significance import holm, summarise, welch
from retinanet.losses.focal import SigmoidFocal
from retinanet.runtime.console import progress
from retinanet.visualization.plots import Chart, Series

COMMON_A_RARE, HARD_A_RARE = 1000, 5  # common points, and those of them that lie close to rare ones
SPREAD = 0.08  # of points around the spirals, which are 1 long from the centre outwards
NEAREST_EASY, EASY_RING = 1.2, 3.0  # distance from the centre, and how much further the farthest is
PRIOR = 0.01


class Contestant(NamedTuple):
    name: str
    alpha: float  # at 0.5 both kinds weigh the same
    gamma: float


CONTESTANTS = (
    Contestant("cross entropy", 0.5, 0.0),
    Contestant("cross entropy, alpha 0.75", 0.75, 0.0),
    Contestant("cross entropy, alpha 0.99", 0.99, 0.0),
    Contestant("focal loss, alpha 0.25, gamma 2", 0.25, 2.0),
)


def draw_points(num_rare: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (N, 2) and labels (N,), as the loss has them: 0 for a rare point, 1 for no class. Rare ones come first."""

    def spiral(count: int, start: float) -> Tensor:
        along = torch.rand(count, generator=generator).sqrt()
        noise = SPREAD * torch.randn(count, 2, generator=generator)
        return _at(along, start + 2 * math.pi * along) + noise

    rare, hard = spiral(num_rare, 0.0), spiral(HARD_A_RARE * num_rare, math.pi)
    num_easy = (COMMON_A_RARE - HARD_A_RARE) * num_rare
    easy = _at(
        NEAREST_EASY + EASY_RING * torch.rand(num_easy, generator=generator),
        2 * math.pi * torch.rand(num_easy, generator=generator),
    )
    points = torch.cat([rare, hard, easy])
    return points, (torch.arange(len(points)) >= num_rare).long()


def _at(distance: Tensor, angle: Tensor) -> Tensor:
    return distance[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def average_precision(scores: Tensor, is_rare: Tensor) -> float:
    """Area under precision over recall: the mean, over the rare points, of the precision when each is found.

    Points of one score are found together: a network that says the same of all has the share of rare ones.
    """
    levels, level_of, found = scores.unique(return_inverse=True, return_counts=True)  # from the lowest
    hits = torch.zeros(len(levels), dtype=torch.float64).index_add_(0, level_of, is_rare.double())
    precision = hits.flip(0).cumsum(0) / found.flip(0).cumsum(0)
    return float((precision * hits.flip(0)).sum() / hits.sum())


def train_one(contestant: Contestant, seed: int, *, num_rare: int = 200, steps: int = 600, batch: int = 2048) -> float:
    """Average precision, on points never seen, of one network. Points, batches and first weights depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    points, labels = draw_points(num_rare, generator)
    test_points, test_labels = draw_points(num_rare, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    nn.init.constant_(model[-1].bias, -math.log((1 - PRIOR) / PRIOR))
    loss_sum = SigmoidFocal(alpha=contestant.alpha, gamma=contestant.gamma)
    # Adam takes no notice of a factor before the loss, so that alpha only weighs one kind against the other.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    everyone = torch.ones(batch, dtype=torch.bool)
    for _ in range(steps):
        chosen = torch.randint(len(points), (batch,), generator=generator)
        num_rare_here = (labels[chosen] == 0).sum().clamp(min=1)
        loss = loss_sum(model(points[chosen]), labels[chosen], everyone) / num_rare_here
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return average_precision(model(test_points)[:, 0], test_labels == 0)


def compare(num_seeds: int) -> dict[str, list[float]]:
    """Average precision of each contestant, by seed."""
    runs = [(contestant, seed) for contestant in CONTESTANTS for seed in range(num_seeds)]
    scores: dict[str, list[float]] = {}
    for contestant, seed in progress(runs, "training", None):
        scores.setdefault(contestant.name, []).append(train_one(contestant, seed))
    return scores


def markdown(scores: dict[str, list[float]]) -> str:
    """The table; every row is compared with the last one, the focal loss."""
    baseline = list(scores)[-1]
    versus = {name: welch(values, scores[baseline]) for name, values in scores.items() if name != baseline}
    p_values = dict(zip(versus, holm([comparison.p for comparison in versus.values()]), strict=True))
    lines = [
        f"# One rare point among {COMMON_A_RARE} others, {HARD_A_RARE} of them hard to tell from it",
        "",
        "| loss | average precision | lowest and highest | n | difference | p |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, values in scores.items():
        cells = [
            name,
            spread_text(summarise(values), digits=3),
            f"{min(values):.3f}, {max(values):.3f}",
            str(len(values)),
            f"{versus[name].difference:+.3f}" if name in versus else NOTHING,
            p_text(p_values.get(name, math.nan)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Mean ± standard deviation over seeds; difference from the last row; p by Welch's t-test, two-sided, "
            f"corrected for all rows by Holm's method, * below {LEVEL}. A drawn problem, made to have many easy points "
            "and few hard ones: it shows the mechanism, not that the focal loss is better on other data.",
            "",
        ]
    )


def chart(scores: dict[str, Sequence[float]]) -> Chart:
    summaries = [summarise(values) for values in scores.values()]
    places = list(range(len(scores)))
    seeds = [(place, value) for place, values in enumerate(scores.values()) for value in values]
    return Chart(
        f"One rare point among {COMMON_A_RARE} others",
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
