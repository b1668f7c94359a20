"""Weighted boxes fusion: average the boxes of the same object (Solovyev et al. 2021)."""

import numpy as np

from retinanet.detection.better_neighbours import BetterNeighbours
from retinanet.detection.overlapping_pairs import paired_overlap

# A box is compared with the clusters that have a member whose IoU with it is above this share of `min_iou`.
NEIGHBOUR_SHARE = 0.25
MARGIN = 1.0  # pixels by which a box may extend beyond a window that contains it
MAX_COMPARED = 2**20  # boxes times windows at once


def weighted_boxes(
    boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, windows: np.ndarray, *, min_iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average boxes of the same object, and score them by how many views detected it.

    Boxes join clusters in the order of their scores: each joins the cluster of its group whose average box has the
    largest IoU with it, if this is above `min_iou`, or starts a new cluster. The score of a cluster is the mean score
    of its boxes, times min(T, N) / N, where T is the number of boxes and N the number of views that contain the whole
    averaged box. In the paper, every model sees the whole image, so N is the number of models.

    Args:
        boxes: (D, 4) float64, with positive areas.
        scores: (D,), above 0.
        groups: (D,) int64, at least 0; boxes of different groups are never of the same object.
        windows: (V, 4), the part of the image that each view contains, including views without boxes.

    Returns: boxes (C, 4), scores (C,), and the index of the best box in each cluster (C,), by decreasing score.
    """
    sums, weights = np.zeros_like(boxes), np.zeros_like(scores)  # of clusters: score * box and score, over the boxes
    cluster_of = np.zeros(len(boxes), dtype=np.int64)  # by rank
    best: list[int] = []
    ranked = np.argsort(-scores, kind="stable")
    neighbours = BetterNeighbours(boxes, groups, ranked, min_iou=NEIGHBOUR_SHARE * min_iou)
    for rank, index in enumerate(ranked.tolist()):
        joined = len(best)
        near = cluster_of[neighbours.of(rank)]
        if len(near):
            intersection, union = paired_overlap(sums[near] / weights[near, None], boxes[index, None])
            iou = intersection / union
            if iou.max() > min_iou:
                joined = int(near[iou.argmax()])
        if joined == len(best):
            best.append(index)
        sums[joined] += scores[index] * boxes[index]
        weights[joined] += scores[index]
        cluster_of[rank] = joined
    num_clusters = len(best)
    counts = np.bincount(cluster_of, minlength=num_clusters)
    weights = weights[:num_clusters]
    fused = sums[:num_clusters] / weights[:, None]
    expected = np.maximum(num_containing(fused, windows), 1)
    fused_scores = weights / counts * np.minimum(counts, expected) / expected
    order = np.argsort(-fused_scores, kind="stable")
    return fused[order], fused_scores[order], np.array(best, dtype=np.int64)[order]


def num_containing(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Count the windows (V, 4) that contain each box (C, 4), except for a margin of one pixel: (C,)."""
    x1, y1, x2, y2 = (windows + np.array([-MARGIN, -MARGIN, MARGIN, MARGIN])).T  # (V,) each
    counts = np.zeros(len(boxes), dtype=np.int64)
    step = max(1, MAX_COMPARED // len(windows))
    for start in range(0, len(boxes), step):
        left, top, right, bottom = boxes[start : start + step, :, None].transpose(1, 0, 2)  # (step, 1) each
        counts[start : start + step] = ((left >= x1) & (top >= y1) & (right <= x2) & (bottom <= y2)).sum(axis=1)
    return counts
