"""AP with weighted images: one set of matches is accumulated under many weightings, without matching again.

Shape letters: T IoU thresholds, D detections, I images, K classes, R weightings.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from retinanet.evaluation.coco import RECALL_THRESHOLDS
from retinanet.evaluation.matches import Matches

WEIGHTS_AT_ONCE = 2**20  # detections of a class times weightings, to limit the memory of a thread


def average_precision(
    matches: Matches, image_weights: np.ndarray, *, progress: Callable[[int, int], object] | None = None
) -> np.ndarray:
    """AP of each class at each IoU threshold, by COCO's 101-point interpolation: (R, K, T) float64.

    An image of weight w counts as w copies of itself, as in a bootstrap resample. With unit weights, the result is
    COCO's. A class is NaN if all of its objects have weight 0: COCO excludes it from the mean over classes.

    A detection that is not a true positive never raises the interpolated precision, so precision is evaluated only at
    the true positives; the others only add to the count of detections. Classes are processed in as many threads as
    torch uses.

    Args:
        image_weights: (R, I), non-negative.
        progress: called with the number of finished parts and the total.
    """
    num_weightings = len(image_weights)
    shape = (num_weightings, matches.num_classes, len(matches.iou_thresholds))
    result = np.full(shape, np.nan)
    parts = list(_parts(matches, num_weightings))

    def accumulate(part: tuple[int, slice, slice]) -> None:
        label, detections, weightings = part
        result[weightings, label] = _of_class(matches, label, detections, image_weights[weightings])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for number, _ in enumerate(pool.map(accumulate, parts), 1):
            if progress is not None:
                progress(number, len(parts))
    return result


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean over the second axis of (R, K, ...), excluding classes that are NaN; NaN if all are."""
    is_valid = ~np.isnan(values)
    count = is_valid.sum(axis=1)
    total = np.where(is_valid, values, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _parts(matches: Matches, num_weightings: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield all combinations of a label, with its detections, and a range of weightings."""
    bounds = np.searchsorted(matches.labels, np.arange(matches.num_classes + 1)).tolist()
    for label in range(matches.num_classes):
        first, last = bounds[label], bounds[label + 1]
        step = max(1, WEIGHTS_AT_ONCE // max(1, last - first))
        for start in range(0, num_weightings, step):
            yield label, slice(first, last), slice(start, start + step)


def _of_class(matches: Matches, label: int, detections: slice, image_weights: np.ndarray) -> np.ndarray:
    """AP of one class at each IoU threshold: (R, T)."""
    is_counted = (matches.object_labels == label) & ~matches.is_ignored_object
    num_objects = image_weights[:, matches.object_images[is_counted]].sum(axis=1, dtype=np.float64)[:, None]  # (R, 1)
    is_ignored = matches.is_ignored[:, detections]  # (T, D)
    is_true_positive = (matches.object_rows[:, detections] >= 0) & ~is_ignored
    weights = image_weights[:, matches.image_indices[detections]].astype(np.float64)  # (R, D)
    num_before = np.cumsum(weights, axis=1)  # including the detection itself
    result = np.empty((len(image_weights), len(is_ignored)))
    for threshold, (positive, ignored) in enumerate(zip(is_true_positive, is_ignored, strict=True)):
        rows = np.flatnonzero(positive)
        num_positive = np.cumsum(weights[:, rows], axis=1)
        num_counted = num_before[:, rows]
        if ignored.any():
            ignored_rows = np.flatnonzero(ignored)
            num_ignored = np.cumsum(np.insert(weights[:, ignored_rows], 0, 0, axis=1), axis=1)
            num_counted -= num_ignored[:, np.searchsorted(ignored_rows, rows)]
        result[:, threshold] = _interpolated(num_positive, num_counted, num_objects)
    return result


def _interpolated(num_positive: np.ndarray, num_counted: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    """Mean precision at COCO's recall thresholds, from the counts at each true positive: (R,).

    Args:
        num_positive, num_counted: true positives, and all detections that count, up to each true positive: (R, P).
        num_objects: (R, 1).
    """
    precision = num_positive / (num_counted + np.spacing(1))  # as in COCO
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(num_positive, num_objects, out=np.zeros(num_positive.shape), where=num_objects > 0)
    # Number of recall thresholds that each true positive reaches. Compared as floats, as in COCO: 7 / 100 does not
    # reach the threshold 0.07, which is 7 * 0.01.
    nearest = np.rint(recall * (len(RECALL_THRESHOLDS) - 1)).astype(np.intp)
    num_reached = nearest + (recall >= RECALL_THRESHOLDS[nearest])
    newly_reached = np.diff(num_reached, axis=1, prepend=0)
    ap = np.einsum("rp,rp->r", precision, newly_reached) / len(RECALL_THRESHOLDS)
    return np.where(num_objects[:, 0] > 0, ap, np.nan)
