"""IoU of every pair of two sets of boxes, in double precision."""

import numpy as np


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each pair of boxes, given by their corners: (D, 4), (N, 4) -> (D, N) float64; 0 if they do not overlap."""
    boxes, others = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    intersection = sides.clip(min=0).prod(axis=-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) + (others[..., 2:] - others[..., :2]).prod(axis=-1)
    return np.divide(intersection, areas - intersection, out=np.zeros_like(intersection), where=intersection > 0)
