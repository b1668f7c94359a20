"""For each box, the overlapping boxes with a higher score, stored sparsely."""

import numpy as np

from retinanet.detection.overlapping_pairs import overlapping_pairs, paired_overlap


class BetterNeighbours:
    """The better boxes of the same group whose IoU with a box is above a minimum.

    Args:
        boxes: (D, 4) float64, with positive areas.
        groups: (D,) int64, at least 0.
        ranked: (D,) indices of the boxes, best first.
        min_iou: neighbours have a larger IoU than this.
        sources: (D,) int64; boxes from the same source are not neighbours. None: all boxes may be.
    """

    def __init__(
        self,
        boxes: np.ndarray,
        groups: np.ndarray,
        ranked: np.ndarray,
        *,
        min_iou: float,
        sources: np.ndarray | None = None,
    ):
        rank_of = np.empty_like(ranked)
        rank_of[ranked] = np.arange(len(ranked))
        better, worse = [rank_of[:0]], [rank_of[:0]]
        for first, second in overlapping_pairs(boxes, groups):
            intersection, union = paired_overlap(boxes[first], boxes[second])
            is_near = intersection > min_iou * union
            if sources is not None:
                is_near &= sources[first] != sources[second]
            ranks = rank_of[first[is_near]], rank_of[second[is_near]]
            better.append(np.minimum(*ranks))
            worse.append(np.maximum(*ranks))
        all_worse = np.concatenate(worse)
        order = np.argsort(all_worse, kind="stable")
        self._better = np.concatenate(better)[order]
        self._starts = np.searchsorted(all_worse[order], np.arange(len(ranked) + 1)).tolist()

    def of(self, rank: int) -> np.ndarray:
        """Ranks of the better neighbours of the box with a rank; 0 is the best box."""
        return self._better[self._starts[rank] : self._starts[rank + 1]]

    def kept_by_nms(self) -> np.ndarray:
        """Return which boxes, by rank, have no kept neighbour that is better: (D,) bool."""
        kept = np.ones(len(self._starts) - 1, dtype=bool)
        for rank in range(len(kept)):
            if self._starts[rank] < self._starts[rank + 1]:
                kept[rank] = not kept[self.of(rank)].any()
        return kept
