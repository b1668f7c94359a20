"""All analyses of the errors of a detector, in one record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retinanet.evaluation.calibration import Calibration, ScoreHistogram, measure_calibration, score_histogram
from retinanet.evaluation.coco import coco_evaluation
from retinanet.evaluation.confusion import confusion_matrix
from retinanet.evaluation.detection_table import detection_table, ranks, rows_by_image
from retinanet.evaluation.image_errors import (
    ImageErrors,
    ImageRanking,
    LabelError,
    find_label_errors,
    image_diagnostics,
    rank_images,
    summarise_images,
)
from retinanet.evaluation.matches import Matches
from retinanet.evaluation.oracles import Oracles, compute_oracles
from retinanet.evaluation.tide import TideErrors, tide_errors
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections


@dataclass(frozen=True, eq=False, kw_only=True)
class ErrorReport:
    """Errors of a detector. Shape letters: I images, K classes."""

    thresholds: np.ndarray  # (K,) float64, score threshold of each class for the fields below
    confusion: np.ndarray  # (K + 1, K + 1) int64; see `confusion_matrix`
    images: tuple[ImageErrors, ...]  # I, by image index
    ranking: ImageRanking
    label_errors: tuple[LabelError, ...]  # highest score first
    # The following fields cover all detections, whatever their score.
    tide: TideErrors
    oracles: Oracles
    calibration: Calibration
    histogram: ScoreHistogram


def analyse_errors(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    matches: Matches,
    *,
    thresholds: Sequence[float],
    max_detections: int | None = None,
    anchor_ceiling: float | None = None,
) -> ErrorReport:
    """Analyse the errors of detections.

    Args:
        detections: keyed by image index, boxes in pixels of the original image, scores in 0..1.
        matches: of the detections with the dataset.
        thresholds: score threshold of each class, above which a detection is shown to a user, (K,).
        max_detections: as in `coco_evaluation`.
        anchor_ceiling: highest AP that the anchors allow, as computed by `retinanet check`.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    positions = _positions_above(matches, limits)
    shown = {index: detections[index][rows] for index, rows in positions.items()}
    everything = coco_evaluation(dataset, detections, max_detections=max_detections)
    above = coco_evaluation(dataset, shown, max_detections=max_detections)
    image_ranks = ranks(dataset.image_ids)
    diagnostics = image_diagnostics(above)
    images = summarise_images(diagnostics, image_ranks, matches)
    return ErrorReport(
        thresholds=limits,
        confusion=confusion_matrix(above, dataset),
        images=images,
        ranking=rank_images(images),
        label_errors=find_label_errors(diagnostics, detection_table(shown, image_ranks), positions),
        tide=tide_errors(everything),
        oracles=compute_oracles(
            everything, dataset, detections, matches, max_detections=max_detections, anchor_ceiling=anchor_ceiling
        ),
        calibration=measure_calibration(everything),
        histogram=score_histogram(matches),
    )


def _positions_above(matches: Matches, limits: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of the detections that count and are above the thresholds, in the `Detections` of each image with any."""
    is_shown = (matches.scores > limits[matches.labels]) & ~matches.is_ignored[0]
    positions = matches.positions[is_shown]
    return {index: np.sort(positions[rows]) for index, rows in rows_by_image(matches.image_indices[is_shown])}
