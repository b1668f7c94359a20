"""Match detections to objects with COCO's greedy rule, as flat arrays.

hotcoco returns its matches as one Python dict per image, class and size range. For 5,000 images with 500,000
detections, that takes a minute and 9 GB; here it takes a second. The matches are the same.

Shape letters: T IoU thresholds, D detections, M boxes, K classes, P pairs of a detection and an object.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from retinanet.evaluation.coco import IOU_THRESHOLDS, default_max_detections
from retinanet.evaluation.detection_table import DetectionTable, detection_table, ranks
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections

PAIRS_AT_ONCE = 2**22  # limits the memory for pairs of detections and objects


@dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """Which detections match which objects under COCO's greedy rule.

    Detections are sorted by label, then by score (highest first), then by rank of the image id, then by position in
    the image: the order in which COCO accumulates. Those beyond the number that counts are omitted.
    """

    iou_thresholds: np.ndarray  # (T,) float64, 0.50 to 0.95
    image_indices: np.ndarray  # (D,) int64, dataset index
    positions: np.ndarray  # (D,) int64, row in the image's Detections
    labels: np.ndarray  # (D,) int64
    scores: np.ndarray  # (D,) float64
    object_rows: np.ndarray  # (T, D) int64: the matched row of the dataset's boxes, 0..M-1, or -1
    is_ignored: np.ndarray  # (T, D) bool: neither a true nor a false positive (crowds, other sizes, LVIS rules)
    is_ignored_object: np.ndarray  # (M,) bool: crowds and boxes outside the size range
    object_images: np.ndarray  # (M,) int64, dataset index
    object_labels: np.ndarray  # (M,) int64
    num_images: int
    num_classes: int

    @property
    def is_true_positive(self) -> np.ndarray:
        """Whether each detection counts as a true positive: (T, D) bool."""
        return (self.object_rows >= 0) & ~self.is_ignored

    def object_counts(self) -> np.ndarray:
        """Number of objects per class, excluding ignored ones: (K,) int64."""
        return np.bincount(self.object_labels[~self.is_ignored_object], minlength=self.num_classes)


def match_detections(
    dataset: Dataset,
    detections: Mapping[int, Detections],
    *,
    max_detections: int | None = None,
    sizes: tuple[float, float] = (0, 1e10),
) -> Matches:
    """Match detections to objects of their class at each IoU threshold of COCO.

    Args:
        dataset: the ground truth.
        detections: keyed by image index, boxes in pixels of the original image. A missing entry means no detections.
        max_detections: highest-scoring detections that count per image and class, or per image if the dataset is
            federated. None: 100, or 300 if the dataset is federated.
        sizes: smallest and largest area of an object, in square pixels. Objects of other sizes are ignored, and so are
            detections of other sizes without a match.
    """
    image_ranks = ranks(dataset.image_ids)
    table = detection_table(detections, image_ranks)
    if max_detections is None:
        max_detections = default_max_detections(dataset)
    table = _highest_scores(dataset, table, image_ranks, max_detections)
    areas = table.boxes_xywh[:, 2] * table.boxes_xywh[:, 3]
    is_ignored_object = dataset.is_crowd | (dataset.areas < sizes[0]) | (dataset.areas > sizes[1])
    object_images = np.repeat(np.arange(len(dataset)), np.diff(dataset.box_start))
    object_rows = _match(dataset, table, object_images, is_ignored_object)
    is_ignored_unmatched = (areas < sizes[0]) | (areas > sizes[1]) | ~_is_verified(dataset, table, object_images)
    is_ignored = np.where(object_rows >= 0, np.append(is_ignored_object, False)[object_rows], is_ignored_unmatched)
    return Matches(
        iou_thresholds=IOU_THRESHOLDS,
        image_indices=table.image_indices,
        positions=table.positions,
        labels=table.labels,
        scores=table.scores,
        object_rows=object_rows,
        is_ignored=is_ignored,
        is_ignored_object=is_ignored_object,
        object_images=object_images,
        object_labels=dataset.labels,
        num_images=len(dataset),
        num_classes=len(dataset.class_names),
    )


def _highest_scores(
    dataset: Dataset, table: DetectionTable, image_ranks: np.ndarray, max_detections: int
) -> DetectionTable:
    """The detections that count, in the order of `Matches`."""
    by_image = np.lexsort((table.positions, -table.scores, image_ranks[table.image_indices]))
    if dataset.federated is None:  # the limit is per class
        by_image = by_image[np.argsort(table.labels[by_image], kind="stable")]
        groups = table.labels * len(dataset) + table.image_indices
    else:
        groups = table.image_indices
    kept = by_image[_rank_in_group(groups[by_image]) < max_detections]
    ordered = np.lexsort(
        (table.positions[kept], image_ranks[table.image_indices[kept]], -table.scores[kept], table.labels[kept])
    )
    return DetectionTable(*(column[kept[ordered]] for column in table))


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """Rank of each element among those of its group, starting from 0; the elements of a group are adjacent."""
    index = np.arange(len(groups))
    is_first = np.append(True, groups[1:] != groups[:-1])[: len(groups)]
    return index - np.maximum.accumulate(np.where(is_first, index, 0))


def _is_verified(dataset: Dataset, table: DetectionTable, object_images: np.ndarray) -> np.ndarray:
    """Whether all objects of each detection's class in its image are annotated: (D,) bool; see `Federated`."""
    if dataset.federated is None:
        return np.ones(len(table.scores), dtype=bool)
    key = np.array([len(dataset.class_names), 1])  # pairs of image and label as single numbers
    annotated = np.column_stack([object_images, dataset.labels])
    of_detections = np.column_stack([table.image_indices, table.labels]) @ key
    known = np.concatenate([annotated, dataset.federated.absent]) @ key
    return np.isin(of_detections, known) & ~np.isin(of_detections, dataset.federated.incomplete @ key)


def _match(
    dataset: Dataset, table: DetectionTable, object_images: np.ndarray, is_ignored_object: np.ndarray
) -> np.ndarray:
    """Matched row of the boxes for each threshold and detection, or -1: (T, D) int64.

    In order of score, each detection takes the object of its image and class with the highest IoU among those not
    taken. It prefers an object that counts to one that is ignored and, on ties, the last one. Any number of detections
    may take a crowd. All images and classes are processed in parallel: the first detection of each, then the second,
    and so on.
    """
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]  # as in COCO: rounding must not prevent IoU 1
    rows, objects, ious = _overlapping_pairs(dataset, table, object_images, thresholds.min())
    # A detection without such a pair matches nothing, so it needs no rank.
    candidates = np.unique(rows)
    cells = table.image_indices[candidates] * len(dataset.class_names) + table.labels[candidates]
    by_cell = np.argsort(cells, kind="stable")  # keeps the order of scores
    rank = np.zeros(len(table.scores), dtype=np.int64)
    rank[candidates[by_cell]] = _rank_in_group(cells[by_cell])
    # Within a detection, the preferred object comes last.
    order = np.lexsort((objects, ious, ~is_ignored_object[objects], rows, rank[rows]))
    rows, objects, ious = rows[order], objects[order], ious[order]
    matched = np.full((len(thresholds), len(table.scores)), -1, dtype=np.int64)
    is_taken = np.zeros((len(thresholds), len(dataset.labels)), dtype=bool)
    ends = np.flatnonzero(np.diff(rank[rows], append=-1)) + 1
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True) if len(rows) else ():
        here = slice(start, end)
        is_free = (ious[here] >= thresholds) & ~is_taken[:, objects[here]]
        firsts = np.flatnonzero(np.diff(rows[here], prepend=-1))
        best = np.maximum.reduceat(np.where(is_free, np.arange(start, end), -1), firsts, axis=1)
        threshold, number = np.nonzero(best >= 0)
        chosen = objects[best[threshold, number]]
        matched[threshold, rows[here][firsts][number]] = chosen
        is_taken[threshold, chosen] = ~dataset.is_crowd[chosen]
    return matched


def _overlapping_pairs(
    dataset: Dataset, table: DetectionTable, object_images: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, object and IoU of the pairs in the same image and class that reach a minimum IoU: (P,) each."""
    num_classes = len(dataset.class_names)
    cells = object_images * num_classes + dataset.labels
    by_cell = np.argsort(cells, kind="stable")
    wanted = table.image_indices * num_classes + table.labels
    start = np.searchsorted(cells[by_cell], wanted, side="left")
    counts = np.searchsorted(cells[by_cell], wanted, side="right") - start
    parts = []
    chunk = np.cumsum(counts) // PAIRS_AT_ONCE
    for number in range(int(chunk[-1]) + 1 if len(chunk) else 0):
        of_chunk = np.flatnonzero((chunk == number) & (counts > 0))
        rows = np.repeat(of_chunk, counts[of_chunk])
        first = np.cumsum(counts[of_chunk]) - counts[of_chunk]
        offsets = np.arange(len(rows)) - np.repeat(first, counts[of_chunk])
        objects = by_cell[start[rows] + offsets]
        ious = _iou(table.boxes_xywh[rows], dataset.boxes_xywh[objects], dataset.is_crowd[objects])
        near = ious >= least
        parts.append((rows[near], objects[near], ious[near]))
    none = np.zeros(0, dtype=np.int64)
    return tuple(np.concatenate(column) for column in zip((none, none, np.zeros(0)), *parts, strict=True))


def _iou(boxes: np.ndarray, objects: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """IoU of pairs of boxes (P, 4), with the operations of pycocotools' `bbIou` in the same order: (P,) float64.

    For a crowd, the area of the detection replaces the union.
    """
    corner = np.minimum(boxes[:, :2] + boxes[:, 2:], objects[:, :2] + objects[:, 2:])
    sides = corner - np.maximum(boxes[:, :2], objects[:, :2])
    intersection = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0)
    area = boxes[:, 2] * boxes[:, 3]
    union = np.where(is_crowd, area, area + objects[:, 2] * objects[:, 3] - intersection)
    return np.divide(intersection, union, out=np.zeros(len(union)), where=intersection > 0)
