"""Propose anchors for a dataset, verified by exact reports on the old and the new anchors."""

from dataclasses import replace
from typing import NamedTuple

import torch

from retinanet.config import AnchorConfig, Config, IoUAssignmentConfig
from retinanet.detection.anchor_fit import BoxPlacement, fit_score, fit_shapes
from retinanet.doctor.anchors import MAX_OBJECTS, AnchorReport, match_quality, sample_images
from retinanet.formats.dataset import Dataset

MIN_GAIN = 0.01  # in `fit_score`; a smaller gain is not worth a change and may not generalise
ATSS_FG_IOU = 0.5  # ATSS has one threshold per object; this is a typical one


class AnchorProposal(NamedTuple):
    """Proposed anchors for a dataset: better than those of the config, or the same."""

    anchors: AnchorConfig
    before: AnchorReport  # with the anchors of the config
    after: AnchorReport  # with `anchors`; the same report if the anchors are the same
    fg_iou: float  # IoU from which an anchor is positive

    @property
    def is_better(self) -> bool:
        """Whether the proposal differs from the config's anchors, in which case it is better."""
        return self.after is not self.before

    @property
    def shares(self) -> tuple[float, float]:
        """Fraction of objects whose best IoU is at least `fg_iou`, before and after; NaN without objects."""
        return _share(self.before, self.fg_iou), _share(self.after, self.fg_iou)

    def config_lines(self) -> list[str]:
        """Overrides such as `model.anchors.sizes=[16, 32, 64, 128, 256]`; empty if the config's anchors are kept."""
        if not self.is_better:
            return []
        return [
            f"model.anchors.{key}=[{', '.join(f'{value:g}' for value in getattr(self.anchors, key))}]"
            for key in ("sizes", "scales", "aspect_ratios")
        ]


def fit_anchors(dataset: Dataset, cfg: Config, *, max_objects: int | None = MAX_OBJECTS) -> AnchorProposal:
    """Fit sizes, scales and aspect ratios of anchors to a dataset, with images resized as in evaluation.

    The number of anchors and the strides stay the same. Other anchors are proposed only if they raise `fit_score` by at
    least MIN_GAIN and make none of these worse: the fraction of objects that reach the foreground IoU, the mean best
    IoU, the number of objects with a positive anchor, and the AP ceiling.

    Args:
        dataset: only sizes, boxes, labels and areas are used; pass the training set.
        max_objects: use a random sample of the images with about this many objects, drawn with `train.seed`. None: use
            all images.
    """
    fg_iou = cfg.assignment.fg_iou if isinstance(cfg.assignment, IoUAssignmentConfig) else ATSS_FG_IOU
    sample = sample_images(dataset, max_objects, seed=cfg.train.seed)
    before = replace(match_quality(sample, cfg, max_objects=None), num_images=len(dataset))
    current = cfg.model.anchors
    if not before.total.objects:
        return AnchorProposal(current, before, before, fg_iou)
    is_object = torch.from_numpy(~sample.is_crowd)
    objects = BoxPlacement(before.placement.sides[is_object], before.placement.distances[is_object])
    anchors = fit_shapes(objects, current)
    if anchors == current:
        return AnchorProposal(current, before, before, fg_iou)
    changed = cfg.model_copy(update={"model": cfg.model.model_copy(update={"anchors": anchors})})
    after = replace(match_quality(sample, changed, max_objects=None), num_images=len(dataset))
    gain = fit_score(objects, anchors) - fit_score(objects, current)
    if gain < MIN_GAIN or any(
        new < old for new, old in zip(_merits(after, fg_iou), _merits(before, fg_iou), strict=True)
    ):
        return AnchorProposal(current, before, before, fg_iou)
    return AnchorProposal(anchors, before, after, fg_iou)


def _merits(report: AnchorReport, fg_iou: float) -> tuple[float, ...]:
    """Measures that a proposal must not lower: share reaching `fg_iou`, mean best IoU, matched objects, AP ceiling."""
    share = _share(report, fg_iou)
    return share, report.total.mean_iou, -report.total.unmatched, report.ceiling.metrics["AP"]


def _share(report: AnchorReport, fg_iou: float) -> float:
    best = report.best_iou[~report.dataset.is_crowd]
    return float((best >= fg_iou).mean()) if len(best) else float("nan")
