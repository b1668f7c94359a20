"""AP with one part of the detector replaced by a perfect one."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from hotcoco import COCOeval

from retinanet.evaluation.coco import coco_evaluation, mean_of_defined
from retinanet.evaluation.detection_table import rows_by_image
from retinanet.evaluation.matches import Matches
from retinanet.evaluation.pairwise_iou import pairwise_iou
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

MIN_BOX_IOU = 0.1  # detections with a lower IoU are background, as in TIDE
MIN_CLASS_IOU = 0.5  # of a classification error, as in TIDE


class Oracles(NamedTuple):
    """AP of the detector, and upper bounds on AP with one part of it perfect."""

    ap: float  # of the unchanged detections
    perfect_boxes: float
    perfect_classes: float
    anchor_ceiling: float | None  # AP of perfect detections wherever an anchor is positive; None: not computed


def compute_oracles(
    evaluation: COCOeval,
    dataset: Dataset,
    detections: Mapping[int, Detections],
    matches: Matches,
    *,
    max_detections: int | None = None,
    anchor_ceiling: float | None = None,
) -> Oracles:
    """Compute AP with perfect boxes and AP with perfect classes.

    Args:
        evaluation, matches: of the detections with the dataset.
        max_detections: as in `coco_evaluation`.
        anchor_ceiling: highest AP that the anchors allow, as computed by `retinanet check`.
    """
    corrected = with_perfect_classes(dataset, detections, matches)
    return Oracles(
        ap=_mean_precision(evaluation),
        perfect_boxes=ap_with_perfect_boxes(dataset, detections, max_detections=max_detections),
        perfect_classes=_mean_precision(coco_evaluation(dataset, corrected, max_detections=max_detections)),
        anchor_ceiling=anchor_ceiling,
    )


def ap_with_perfect_boxes(
    dataset: Dataset, detections: Mapping[int, Detections], *, max_detections: int | None = None
) -> float:
    """AP if each detection had the box of the object of its class that it overlaps most.

    In order of score, each detection takes an object that is still free, if their IoU is at least `MIN_BOX_IOU`. With
    the object's box, it matches at every IoU threshold; all others are false positives. So this is AP at the IoU
    threshold `MIN_BOX_IOU`.
    """
    return _mean_precision(
        coco_evaluation(dataset, detections, max_detections=max_detections, iou_thresholds=[MIN_BOX_IOU])
    )


def with_perfect_classes(
    dataset: Dataset, detections: Mapping[int, Detections], matches: Matches
) -> dict[int, Detections]:
    """Correct the labels of false positives on objects of another class.

    Such a detection has no match at an IoU of 0.5, but an IoU of at least `MIN_CLASS_IOU` with an object of another
    class. In order of score, each gets the label of the object it overlaps most, if no other detection has taken that
    object. Otherwise it is dropped, as NMS would do with a duplicate.
    """
    is_found = np.zeros(len(dataset.labels), dtype=bool)
    is_found[matches.object_rows[0][matches.object_rows[0] >= 0]] = True
    is_false = (matches.object_rows[0] < 0) & ~matches.is_ignored[0]
    positions = matches.positions[is_false]
    corrected = dict(detections)
    for index, rows in rows_by_image(matches.image_indices[is_false]):
        objects = slice(dataset.box_start[index], dataset.box_start[index + 1])
        corrected[index] = _correct(
            detections[index],
            positions[rows],
            dataset.image(index).boxes,
            dataset.labels[objects],
            is_found[objects].copy(),
            dataset.is_crowd[objects],
        )
    return corrected


def _correct(
    found: Detections,
    rows: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    is_taken: np.ndarray,
    is_crowd: np.ndarray,
) -> Detections:
    """Correct the labels of some detections of an image, or drop them; `rows` are their positions."""
    own_labels, scores = found.labels.cpu().numpy(), found.scores.cpu().numpy()
    ious = pairwise_iou(found.boxes.cpu().numpy()[rows], boxes)
    ious[(own_labels[rows][:, None] == labels) | is_crowd] = 0
    is_wrong = ious.max(axis=1, initial=0) >= MIN_CLASS_IOU
    if not is_wrong.any():
        return found
    rows, best = rows[is_wrong], ious[is_wrong].argmax(axis=1)
    new_labels, is_kept = own_labels.copy(), np.ones(len(own_labels), dtype=bool)
    for position in np.lexsort((rows, -scores[rows])).tolist():
        row, column = rows[position], best[position]
        if is_taken[column]:
            is_kept[row] = False
        else:
            is_taken[column] = True
            new_labels[row] = labels[column]
    return Detections(found.boxes, found.scores, torch.from_numpy(new_labels).to(found.labels.device))[is_kept]


def _mean_precision(evaluation: COCOeval) -> float:
    """AP over all IoU thresholds, recalls and classes; NaN without objects."""
    return mean_of_defined(evaluation.eval["precision"][:, :, :, 0, -1])
