"""Errors per image: the worst, best and most surprising images, and annotations that look wrong."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from hotcoco import COCOeval

from retinanet.evaluation.calibration import calibrated_scores
from retinanet.evaluation.detection_table import DetectionTable
from retinanet.evaluation.matches import Matches

# Detections below this score are not evidence against an annotation.
MIN_LABEL_ERROR_SCORE = 0.5


class ImageErrors(NamedTuple):
    """Detections above the score thresholds in one image, compared with its objects at an IoU of 0.5."""

    image_index: int
    true_positives: int
    false_positives: int
    missed: int
    f1: float  # 1 for an image without objects or detections
    surprise: float  # see `surprises`

    @property
    def num_objects(self) -> int:
        """Number of objects that count."""
        return self.true_positives + self.missed


class ImageRanking(NamedTuple):
    """Indices of the worst, best and most surprising images, the most extreme first."""

    worst: tuple[int, ...]  # lowest F1; on ties, those with the most errors
    best: tuple[int, ...]  # highest F1 of the images with objects; on ties, those with the most objects
    surprising: tuple[int, ...]  # with errors, and fewer correct detections than their scores predict


class LabelError(NamedTuple):
    """A detection with a high score that contradicts the annotations."""

    kind: Literal["wrong class", "missing object"]
    image_index: int
    position: int  # row in the image's Detections
    label: int  # of the detection
    score: float
    object_row: int | None  # row, in the dataset's boxes, of the object with another class; or None
    iou: float  # with that object


def image_diagnostics(evaluation: COCOeval) -> dict[str, Any]:
    """Compare the detections and objects of each image, as hotcoco does; for the functions below.

    Args:
        evaluation: evaluation of the detections above the score thresholds; see `coco_evaluation`.
    """
    return evaluation.image_diagnostics(iou_thr=0.5, score_thr=MIN_LABEL_ERROR_SCORE)


def summarise_images(
    diagnostics: Mapping[str, Any], image_ranks: np.ndarray, matches: Matches
) -> tuple[ImageErrors, ...]:
    """Summarise each image, by image index.

    Args:
        diagnostics: see `image_diagnostics`.
        image_ranks: (I,), hotcoco's number of each image.
        matches: matches of all detections, from which surprise is computed.
    """
    by_rank = diagnostics["img_summary"]
    nothing = {"tp": 0, "fp": 0, "fn": 0, "f1": 1.0}
    entries = [by_rank.get(rank, nothing) for rank in image_ranks.tolist()]
    return tuple(
        ImageErrors(index, entry["tp"], entry["fp"], entry["fn"], entry["f1"], surprise)
        for index, (entry, surprise) in enumerate(zip(entries, surprises(matches).tolist(), strict=True))
    )


def surprises(matches: Matches) -> np.ndarray:
    """By how many standard deviations the number of true positives is below its expected value: (I,) float64.

    If detection d is a true positive with probability p_d, independently of all others, their expected number in an
    image is sum(p_d), with the variance sum(p_d (1 - p_d)). The probabilities are calibrated on all images, so an image
    is surprising if its detections are wrong more often than their scores suggest: either its annotations are wrong, or
    the image is unusual. Surprise is 0 without detections.
    """
    counts = ~matches.is_ignored[0]
    images = matches.image_indices[counts]
    probability = calibrated_scores(matches)[counts]
    excess = probability - matches.is_true_positive[0][counts]
    total = np.bincount(images, weights=excess, minlength=matches.num_images)
    variance = np.bincount(images, weights=probability * (1 - probability), minlength=matches.num_images)
    return np.divide(total, np.sqrt(variance), out=np.zeros(matches.num_images), where=variance > 0)


def rank_images(images: Sequence[ImageErrors], *, count: int = 20) -> ImageRanking:
    """Choose up to `count` images of each kind."""
    wrong = [image for image in images if image.false_positives or image.missed]
    with_objects = [image for image in images if image.num_objects]
    surprising = [image for image in wrong if image.surprise > 0]
    worst = sorted(wrong, key=lambda image: (image.f1, -image.false_positives - image.missed))
    best = sorted(with_objects, key=lambda image: (-image.f1, -image.num_objects))
    surprising.sort(key=lambda image: -image.surprise)
    return ImageRanking(*(tuple(image.image_index for image in ranked[:count]) for ranked in (worst, best, surprising)))


def find_label_errors(
    diagnostics: Mapping[str, Any], table: DetectionTable, positions: Mapping[int, np.ndarray]
) -> tuple[LabelError, ...]:
    """Find annotations that look wrong, as computed by hotcoco; the highest score first.

    A false positive with a score of at least `MIN_LABEL_ERROR_SCORE` suggests a wrong class if it has an IoU of at
    least 0.5 with a missed object of another class, and a missing object if its IoU with every object is below 0.1.

    Args:
        diagnostics: see `image_diagnostics`.
        table: the detections above the score thresholds, in the order of hotcoco's numbers.
        positions: for each image index, the rows of these detections in the image's `Detections`.
    """
    errors = []
    for entry in diagnostics["label_errors"]:
        row = entry["dt_id"] - 1
        image_index = int(table.image_indices[row])
        is_wrong = entry["type"] == "wrong_label"
        errors.append(
            LabelError(
                kind="wrong class" if is_wrong else "missing object",
                image_index=image_index,
                position=int(positions[image_index][table.positions[row]]),
                label=int(table.labels[row]),
                score=entry["dt_score"],
                object_row=entry["gt_id"] - 1 if is_wrong else None,
                iou=entry["iou"],
            )
        )
    return tuple(errors)
