"""Find the pairs of boxes that overlap, among so many boxes that not all pairs can be compared."""

from collections.abc import Iterator

import numpy as np

MAX_PAIRS = 2**20  # compared at once, which takes about 100 MB


def overlapping_pairs(boxes: np.ndarray, groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of boxes in the same group that share some area, in chunks of indices (P,), (P,).

    Each pair occurs once. Boxes are sorted along one axis, so that only those that overlap on this axis are compared.

    Args:
        boxes: (D, 4) float64.
        groups: (D,) int64, at least 0.
    """
    if len(boxes) == 0:
        return
    # Shifted apart, boxes of different groups do not overlap.
    spacing = boxes.max() - boxes.min() + 1
    along_x, along_y = (_Sweep(boxes[:, axis::2] + groups[:, None] * spacing) for axis in (0, 1))
    sweep, (low, high) = min(
        (along_x, boxes[:, 1::2].T), (along_y, boxes[:, 0::2].T), key=lambda choice: choice[0].num_pairs
    )
    for first, second in sweep.chunks():
        overlaps = (low[first] < high[second]) & (low[second] < high[first])
        yield first[overlaps], second[overlaps]


class _Sweep:
    """The pairs of intervals (D, 2) that overlap on one axis."""

    def __init__(self, intervals: np.ndarray):
        self.order = np.argsort(intervals[:, 0], kind="stable")
        start, end = intervals[self.order].T
        after = np.arange(1, len(start) + 1)
        self.counts = np.maximum(np.searchsorted(start, end) - after, 0)  # (D,) overlapping intervals that start later
        self.num_pairs = int(self.counts.sum())

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield indices of the intervals of each pair, (P,), (P,)."""
        totals = np.cumsum(self.counts)
        start = done = 0
        while start < len(totals):
            stop = max(start + 1, int(np.searchsorted(totals, done + MAX_PAIRS, side="right")))
            counts = self.counts[start:stop]
            first = np.repeat(np.arange(start, stop), counts)
            offset = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
            yield self.order[first], self.order[first + 1 + offset]
            start, done = stop, int(totals[stop - 1])


def paired_overlap(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the intersection and union areas of pairs of boxes: (P, 4), (P, 4) -> (P,), (P,)."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    return intersection, areas(boxes) + areas(others) - intersection


def areas(boxes: np.ndarray) -> np.ndarray:
    """Compute areas: (P, 4) -> (P,)."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
