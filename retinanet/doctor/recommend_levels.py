"""Recommend the pyramid level P2 if many objects are too small for P3, and state its coverage and cost."""

from typing import NamedTuple

import numpy as np

from retinanet.config import Config
from retinanet.config.load import with_overrides
from retinanet.doctor.anchor_proposal import AnchorProposal, fit_anchors
from retinanet.doctor.recommendation import Recommendation
from retinanet.formats.dataset import Dataset

# An object of 16 pixels covers 2 x 2 cells of P3, and is as large as the smallest anchor that is proposed there.
SMALL = 16.0  # pixels after the resize, square root of the area
MANY = 0.05  # share of the objects
# P2 must cover at least this share of the objects in addition; smaller gains do not justify its cost.
WORTHWHILE_COVERAGE = 0.05

# A training step with p2..p7 relative to one with p3..p7 (benchmarks/results/2026-11-30-small-objects.md): time with a
# small and a large head, and memory for activations.
P2_TIME, P2_MEMORY = (1.9, 2.7), 1.4


class LevelAdvice(NamedTuple):
    """A recommendation of pyramid levels, and the anchors fitted to the recommended levels."""

    recommendation: Recommendation
    proposal: AnchorProposal


def recommend_levels(
    dataset: Dataset, cfg: Config, proposal: AnchorProposal, *, max_objects: int | None
) -> LevelAdvice:
    """Recommend P2 if many objects are small, and it raises the share of covered objects by WORTHWHILE_COVERAGE.

    An object is covered if it reaches the foreground IoU with an anchor. Both levels are compared with anchors fitted
    to the dataset, so that the gain is due to P2 alone.

    Args:
        dataset: the training set; no image is read.
        cfg: with the recommended image size.
        proposal: anchors fitted to the dataset with this config.
        max_objects: see `fit_anchors`.
    """
    levels, report = cfg.model.levels, proposal.after

    def keep(sentence: str) -> LevelAdvice:
        return LevelAdvice(Recommendation("levels", sentence), proposal)

    if not report.total.objects:
        return keep("no objects, nothing to recommend")
    if levels.startswith("p2"):
        return keep(f"the pyramid {levels} already has P2")
    sides = np.sqrt(report.placement.sides.prod(dim=1).numpy())[~report.dataset.is_crowd]
    small = float((sides < SMALL).mean())
    sentence = f"{100 * small:.0f} % of the objects have fewer than {SMALL:.0f} pixels after the resize"
    if small <= MANY:
        return keep(f"{sentence}: {levels} is enough")
    lines = levels_with_p2(cfg)
    with_p2 = fit_anchors(dataset, with_overrides(cfg, lines, source="recommended levels"), max_objects=max_objects)
    before, after = proposal.shares[1], with_p2.shares[1]
    missed_before, missed_after = report.total.unmatched, with_p2.after.total.unmatched
    coverage = (
        f"with anchors fitted to {levels}, {100 * before:.1f} % of all objects reach an IoU of {proposal.fg_iou:g} "
        f"with an anchor, and {missed_before} have no positive anchor; with P2, these are {100 * after:.1f} % and "
        f"{missed_after}"
    )
    if after < before + WORTHWHILE_COVERAGE or missed_after > missed_before:
        return keep(f"{sentence}, but P2 would hardly help: {coverage}")
    low, high = P2_TIME
    cost = f"a step takes about {low} to {high} times as much time and {P2_MEMORY} times as much memory"
    return LevelAdvice(Recommendation("levels", f"{sentence}: {coverage}. With P2, {cost}", tuple(lines)), with_p2)


def levels_with_p2(cfg: Config) -> list[str]:
    """Overrides that add P2 to the pyramid, with half the anchor size of P3 unless the sizes follow the levels."""
    lines = [f"model.levels=p2..{cfg.model.levels.partition('..')[2]}"]
    anchors = cfg.model.anchors
    if "sizes" not in anchors.following_levels:
        sizes = [anchors.sizes[0] / 2, *anchors.sizes]
        lines.append(f"model.anchors.sizes=[{', '.join(f'{size:g}' for size in sizes)}]")
    return lines
