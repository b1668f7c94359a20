"""Assign each detection a kind: correct, or one of the error types of TIDE (Bolya et al. 2020).

hotcoco only counts the errors of each kind.
"""

from collections.abc import Mapping

import numpy as np

from retinanet.evaluation.detection_table import rows_by_image
from retinanet.evaluation.matches import Matches
from retinanet.evaluation.pairwise_iou import pairwise_iou
from retinanet.evaluation.tide import BACKGROUND_IOU, POSITIVE_IOU
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

CORRECT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(7)
KINDS = ("correct", "classification", "localisation", "both", "duplicate", "background", "ignored")
ERROR_KINDS = KINDS[CLASSIFICATION:IGNORED]


def detection_kinds(dataset: Dataset, matches: Matches, boxes: np.ndarray) -> np.ndarray:
    """Assign each detection to a kind at an IoU of 0.5: positions in `KINDS`, (D,) int64.

    A false positive is the first of these that applies: `localisation` (IoU 0.1 to 0.5 with an object of its class),
    `classification` (IoU of at least 0.5 with an object of another class), `duplicate` (the object of its class is
    matched by a higher score), `background` (IoU of at most 0.1 with every object), or else `both`: class and location
    are wrong.

    Args:
        boxes: (D, 4) corners of the detections of `matches`, see `matched_boxes`.
    """
    kinds = np.full(len(matches.labels), CORRECT)
    kinds[matches.is_ignored[0]] = IGNORED
    wrong = np.flatnonzero(~matches.is_true_positive[0] & ~matches.is_ignored[0])
    for index, positions in rows_by_image(matches.image_indices[wrong]):
        rows = wrong[positions]
        objects = np.arange(dataset.box_start[index], dataset.box_start[index + 1])
        objects = objects[~matches.is_ignored_object[objects]]
        left_top, sides = np.split(dataset.boxes_xywh[objects], 2, axis=1)
        ious = pairwise_iou(boxes[rows], np.concatenate([left_top, left_top + sides], axis=1))
        is_same = matches.labels[rows, None] == dataset.labels[objects]
        same = np.where(is_same, ious, 0).max(axis=1, initial=0)
        other = np.where(is_same, 0, ious).max(axis=1, initial=0)
        kinds[rows] = np.select(
            [
                (same >= BACKGROUND_IOU) & (same < POSITIVE_IOU),
                other >= POSITIVE_IOU,
                same >= POSITIVE_IOU,
                np.maximum(same, other) <= BACKGROUND_IOU,
            ],
            [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
            BOTH,
        )
    return kinds


def matched_boxes(matches: Matches, detections: Mapping[int, Detections]) -> np.ndarray:
    """Corners of the detections of `matches`, in its order: (D, 4) float32.

    Args:
        detections: those that were matched, keyed by image index.
    """
    boxes = np.zeros((len(matches.labels), 4), dtype=np.float32)
    for index, rows in rows_by_image(matches.image_indices):
        boxes[rows] = detections[index].boxes.cpu().numpy()[matches.positions[rows]]
    return boxes


def found_scores(matches: Matches) -> np.ndarray:
    """Score of the detection that matches each object at an IoU of 0.5, 0 if there is none: (M,) float64."""
    scores = np.zeros(len(matches.object_labels))
    found = matches.is_true_positive[0]
    scores[matches.object_rows[0, found]] = matches.scores[found]
    return scores
