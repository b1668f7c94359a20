"""Convert boxes between (left, top, width, height) and corners, for formats that store corners."""

import numpy as np

from retinanet.formats.dataset import Dataset
from retinanet.formats.writing import Losses, occurring


def to_xywh(corners: np.ndarray) -> np.ndarray:
    """Convert (left, top, right, bottom) to (left, top, width, height), both (M, 4) float64."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def to_corners(boxes_xywh: np.ndarray) -> np.ndarray:
    """Convert (left, top, width, height) to (left, top, right, bottom), both (M, 4) float64."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def size_losses(dataset: Dataset, *, with_crowd: bool = False) -> Losses:
    """Count boxes whose width or height changes slightly when recomputed from corners.

    Args:
        with_crowd: whether the format also has crowd regions.
    """
    rounded = (to_xywh(to_corners(dataset.boxes_xywh)) != dataset.boxes_xywh).any(axis=1)
    counted = rounded if with_crowd else rounded & ~dataset.is_crowd
    return occurring({"box widths and heights are rounded in their last digit": int(counted.sum())})
