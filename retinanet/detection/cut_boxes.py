"""Complete the boxes of objects that are cut by the edge of a tile.

A tile shows only a part of an object that lies across its edge, so its box is a part of the object's box, and the IoU
of the two is small: non-maximum suppression would keep both. Where two tiles overlap, however, both show the same part
of the object. Boxes from different windows are therefore compared within the area that both windows show. If they
match there, they are of the same object, and each side of a box that is cut in one window is taken from the other.
Neighbouring objects that touch do not match, since they are different boxes within the common area as well.
"""

import itertools
from typing import NamedTuple

import numpy as np

from retinanet.detection.overlapping_pairs import areas, overlapping_pairs, paired_overlap

# A box is cut if its distance from the edge is at most this share of its own side, or this number of pixels.
MAX_DISTANCE_SHARE = 0.1
MAX_DISTANCE = 2.0

SIDES = range(4)  # x1, y1, x2, y2
OUTWARD = (-1, -1, 1, 1)  # direction in which the coordinate of a side grows outward


class _Continuations(NamedTuple):
    """For one side: P pairs of a cut box and a matching box whose window shows more of the image on that side."""

    cut: np.ndarray  # (P,) indices
    other: np.ndarray  # (P,) indices
    fit: np.ndarray  # (P,) score of the other box, times the IoU within the area that both windows show


def cut_sides(boxes: np.ndarray, windows: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Return which sides of boxes are at an edge of their window that is not an edge of the image: (D, 4) bool.

    Args:
        boxes, windows: (D, 4) float64, pixels of the image; the window is the part of the image that the network saw.
        image_size: height and width.
    """
    height, width = image_size
    is_inner = windows != np.array([0, 0, width, height])
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return is_inner & (np.abs(boxes - windows) <= np.maximum(MAX_DISTANCE, MAX_DISTANCE_SHARE * sizes))


def complete_cut_boxes(
    boxes: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    windows: np.ndarray,
    image_size: tuple[int, int],
    *,
    min_iou: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Move the cut sides of boxes to where the objects end, as far as other windows show it.

    A side is taken from a matching box of another window that shows more of the image there: the one with the highest
    product of score and IoU, if possible among those that show where the object ends. A box that is cut on the same
    side is completed first, so an object may extend over any number of tiles.

    Args:
        boxes, windows, image_size: see `cut_sides`.
        scores: (D,).
        groups: (D,) int64; only boxes of the same group can be of the same object.
        min_iou: boxes match if their IoU is larger than this within the area that both windows show.

    Returns: the boxes (D, 4), and whether each was changed, (D,) bool.
    """
    is_cut = cut_sides(boxes, windows, image_size)
    changed = np.zeros(len(boxes), dtype=bool)
    if not is_cut.any():
        return boxes, changed
    completed = boxes.copy()
    for side, continuations in zip(SIDES, _continuations(boxes, scores, groups, windows, is_cut, min_iou), strict=True):
        moved = _move_side(completed[:, side], windows[:, side] * OUTWARD[side], is_cut[:, side], continuations)
        changed |= moved
    # Boxes of two windows can contradict each other so much that nothing remains between their sides.
    changed &= (completed[:, 2:] > completed[:, :2]).all(axis=1)
    return np.where(changed[:, None], completed, boxes), changed


def _continuations(
    boxes: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    windows: np.ndarray,
    is_cut: np.ndarray,
    min_iou: float,
) -> list[_Continuations]:
    """Find, for each side, the boxes that match a box that is cut there, in a window that shows more."""
    found: list[list[_Continuations]] = [[] for _ in SIDES]
    is_any_cut = is_cut.any(axis=1)
    for first, second in overlapping_pairs(boxes, groups):
        relevant = is_any_cut[first] | is_any_cut[second]
        first, second = first[relevant], second[relevant]
        intersection, _ = paired_overlap(boxes[first], boxes[second])  # within both windows, as the boxes are
        union = areas(_clip(boxes[first], windows[second])) + areas(_clip(boxes[second], windows[first])) - intersection
        matches = intersection > min_iou * union
        first, second, iou = first[matches], second[matches], intersection[matches] / union[matches]
        for cut, other in ((first, second), (second, first)):
            for side in SIDES:
                shows_more = (windows[other, side] - windows[cut, side]) * OUTWARD[side] > 0
                continues = is_cut[cut, side] & shows_more
                fit = scores[other] * iou
                found[side].append(_Continuations(cut[continues], other[continues], fit[continues]))
    return [_Continuations(*map(np.concatenate, zip(*chunks, strict=True))) for chunks in found]


def _clip(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Clip boxes (P, 4) to windows (P, 4) that they overlap."""
    return np.concatenate([np.maximum(boxes[:, :2], windows[:, :2]), np.minimum(boxes[:, 2:], windows[:, 2:])], axis=1)


def _move_side(side: np.ndarray, reach: np.ndarray, is_cut: np.ndarray, continuations: _Continuations) -> np.ndarray:
    """Move one side of all boxes, (D,), in place, and return which were moved, (D,) bool.

    Args:
        reach: (D,) how far outward each window extends on this side.
        is_cut: (D,) bool, whether each box is cut on this side.
    """
    moved = np.zeros(len(side), dtype=bool)
    ends = ~is_cut  # whether the side is where the object ends
    # Start with the windows that extend furthest, so that the other box of a pair is completed before the cut one.
    order = np.lexsort((continuations.cut, -reach[continuations.cut]))
    cut, other, fit = (values[order] for values in continuations)
    bounds = [*np.flatnonzero(np.diff(cut, prepend=-1)).tolist(), len(cut)]
    for start, stop in itertools.pairwise(bounds):
        candidates = other[start:stop]
        best = candidates[np.lexsort((fit[start:stop], ends[candidates]))[-1]]
        index = cut[start]
        side[index], ends[index], moved[index] = side[best], ends[best], True
    return moved
