"""Convert boxes between sides and corners, for formats that store corners."""

import numpy as np

from retinanet.formats.dataset import Dataset
from retinanet.formats.writing import Losses, occurring


def to_sides(corners: np.ndarray) -> np.ndarray:
    """Left, top, width and height of boxes given as left, top, right and bottom: both (M, 4) float64."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def to_corners(boxes_xywh: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of boxes given as left, top, width and height: both (M, 4) float64."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def side_losses(dataset: Dataset) -> Losses:
    """The objects whose width or height, recomputed from corners, is not exactly the same."""
    rounded = (to_sides(to_corners(dataset.boxes_xywh)) != dataset.boxes_xywh).any(axis=1)
    return occurring({"box sides are rounded in their last digit": int((rounded & ~dataset.is_crowd).sum())})
