"""Diagnose an AP that is near zero or far below its value in training, naming only causes the results support."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from retinanet.evaluation.detection_table import DetectionTable, detection_table
from retinanet.evaluation.trials import PlacementTrials, Repair, draw_sample, try_placements, try_relabelling
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

NEAR_ZERO = 0.05  # AP; a detector that has learned something exceeds this on most datasets
FAR_BELOW = 0.5  # share of the AP in training
MAX_IMAGES = 300  # in which repairs are tried
MIN_MATCHED_SHARE = 0.25  # if fewer objects have a positive anchor, anchors explain an AP near zero
MIN_SHARE_OF_IMAGES = 0.1  # if fewer images have a detection, the score threshold explains an AP near zero
MAX_SCORE_RATIO = 1.05  # between the 95th and the 5th percentile of constant scores
MAX_BOX_SPREAD = 0.01  # standard deviation of constant boxes, as a share of their median side
MIN_ALIKE = 20  # detections or images that must be alike to be called constant


class Diagnosis(NamedTuple):
    """A cause of a low AP that the results support."""

    cause: str
    evidence: str
    remedy: str


class AnchorFit(NamedTuple):
    """How well anchors cover the objects, as computed by `retinanet check`."""

    matched_share: float  # of the objects that have a positive anchor
    ceiling: float  # AP of perfect detections of every object with a positive anchor


def needs_explanation(ap: float, trained_ap: float | None) -> bool:
    """Whether AP is near zero, or far below its value in training.

    Args:
        trained_ap: AP of the same weights recorded in training; None: unknown.
    """
    return ap < NEAR_ZERO or (trained_ap is not None and ap < FAR_BELOW * trained_ap)


def diagnose(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    *,
    ap: float,
    trained_ap: float | None = None,
    loss: float | None = None,
    anchors: AnchorFit | None = None,
    min_score: float | None = None,
) -> list[Diagnosis]:
    """Find the causes of an AP that is near zero or far below its value in training.

    Repairs that would undo a known mistake (exchanged images, another box format or coordinate frame, permuted classes)
    are applied to the detections of up to `MAX_IMAGES` images. A mistake is reported if its repair raises AP by a large
    margin, whatever AP was before. All other causes are considered only if no repair does so and AP needs an
    explanation: it is below `NEAR_ZERO`, or below `FAR_BELOW` times `trained_ap`.

    Args:
        detections: keyed by image index, boxes in pixels of the original image.
        ap: AP of these detections on the dataset.
        trained_ap: AP of the same weights recorded in training.
        loss: loss of this evaluation.
        min_score: only detections with a score above this value were kept.

    Returns: the causes, the most likely one first; empty if AP needs no explanation, or none is supported.
    """
    if dataset.is_crowd.all():
        return []
    table = detection_table(detections, np.arange(len(dataset)))
    not_finite = _not_finite(table, loss)
    if not_finite is not None:
        return [not_finite]
    sample = draw_sample(dataset, table, max_images=MAX_IMAGES)
    placements = try_placements(dataset, table, sample)
    repairs = []
    if placements.proven is not None:
        repairs.append(_of_repair(placements.proven, "AP50, ignoring classes,", len(sample.chosen)))
        sample = sample._replace(table=placements.proven.table)
    relabelling = try_relabelling(sample)
    if relabelling is not None:
        repairs.append(_of_repair(relabelling, "the mean AP50 of the classes involved", len(sample.chosen)))
    if repairs or not needs_explanation(ap, trained_ap):
        return repairs
    cause = _unmatched(anchors) or _below_threshold(dataset, table, min_score) or _constant(table)
    if cause is None and trained_ap is not None and ap < FAR_BELOW * trained_ap:
        cause = _different_input(ap, trained_ap, placements)
    return [] if cause is None else [cause]


def _of_repair(repair: Repair, metric: str, num_images: int) -> Diagnosis:
    evidence = (
        f"{metric} rises from {repair.before:.3f} to {repair.after:.3f} if {repair.finding} (tried in {num_images} "
        "images)"
    )
    return Diagnosis(repair.cause, evidence, repair.remedy)


def _not_finite(table: DetectionTable, loss: float | None) -> Diagnosis | None:
    """A loss, box or score that is NaN or infinite."""
    bad = int((~np.isfinite(table.boxes_xywh).all(axis=1) | ~np.isfinite(table.scores)).sum())
    evidence = [f"{bad} of {len(table.scores)} detections have a box or score that is NaN or infinite"] if bad else []
    if loss is not None and not math.isfinite(loss):
        evidence.append(f"the loss of this evaluation is {loss}")
    if not evidence:
        return None
    return Diagnosis(
        "the training diverged",
        "; ".join(evidence),
        "Use an earlier checkpoint, or train again with a lower learning rate, a longer warm-up or gradient clipping. "
        "The loss curve shows at which step it began to rise.",
    )


def _unmatched(anchors: AnchorFit | None) -> Diagnosis | None:
    """Anchors that match so few objects that the network had little to learn from."""
    if anchors is None or anchors.matched_share >= MIN_MATCHED_SHARE:
        return None
    return Diagnosis(
        "anchors match too few objects",
        f"{anchors.matched_share:.1%} of the objects have a positive anchor; perfect detections of these objects have "
        f"an AP of {anchors.ceiling:.3f}",
        "Run `retinanet check` on the training data, then train with the anchors it proposes or with larger images.",
    )


def _below_threshold(dataset: Dataset, table: DetectionTable, min_score: float | None) -> Diagnosis | None:
    """Scores that rarely exceed the threshold."""
    num_images = len(np.unique(table.image_indices))
    if num_images >= MIN_SHARE_OF_IMAGES * len(dataset):
        return None
    threshold = "the score threshold" if min_score is None else f"postprocess.min_score={min_score:g}"
    highest = f"; the highest score is {table.scores.max():.3g}" if len(table.scores) else ""
    return Diagnosis(
        "nearly all scores are below the threshold",
        f"{len(table.scores)} detections, in {num_images} of {len(dataset)} images, exceed {threshold}{highest}",
        "Evaluate with postprocess.min_score=0.001. If AP is still near zero, the network has learned too little: "
        "check that the loss falls in training, and train longer or with a higher learning rate.",
    )


def _constant(table: DetectionTable) -> Diagnosis | None:
    """Scores or boxes that do not depend on the image."""
    remedy = (
        "Check that the weights are those of a trained network. If they are, the training has collapsed: use an "
        "earlier checkpoint, or train again with a lower learning rate or a longer warm-up."
    )
    if len(table.scores) < MIN_ALIKE:
        return None
    low, high = np.percentile(table.scores, [5, 95]).tolist()
    if high <= MAX_SCORE_RATIO * low:
        evidence = (
            f"90 % of {len(table.scores)} scores are between {low:.4g} and {high:.4g}; before training, all are near "
            "model.prior"
        )
        return Diagnosis("scores do not depend on the image", evidence, remedy)
    images, first = np.unique(table.image_indices, return_index=True)
    boxes = table.boxes_xywh[first]  # the highest score of each image
    spread, side = float(boxes.std(axis=0).max()), float(np.median(boxes[:, 2:]))
    if len(images) >= MIN_ALIKE and spread <= MAX_BOX_SPREAD * side:
        evidence = f"the best box of {len(images)} images is the same, with a standard deviation of {spread:.2g} pixels"
        return Diagnosis("boxes do not depend on the image", evidence, remedy)
    return None


def _different_input(ap: float, trained_ap: float, placements: PlacementTrials) -> Diagnosis:
    """A drop that no other cause explains."""
    return Diagnosis(
        "the weights, the data or the preprocessing differ from training",
        f"AP was {trained_ap:.3f} in training and is {ap:.3f} now, and the detections show no other cause: the best of "
        f"all exchanges of images, box formats and frames changes AP50, ignoring classes, from {placements.before:.3f} "
        f"to {placements.best:.3f}",
        "The results do not show which of the three differs. Check that the dataset and the weights (average or "
        "last) are those of the evaluation in training, and that the preprocessing is the same: channel order (RGB), "
        "mean, standard deviation and size.",
    )
