"""The kind of each false detection of an image, by the rules of TIDE (Bolya et al. 2020)."""

import numpy as np
import torch
from torchvision.ops import box_iou

from retinanet.evaluation.tide import BACKGROUND_IOU, POSITIVE_IOU

KINDS = ("localisation", "classification", "duplicate", "background", "classification and localisation")


def error_kinds(boxes: np.ndarray, labels: np.ndarray, objects: np.ndarray, object_labels: np.ndarray) -> list[str]:
    """Name the kind of each false detection, as `tide_errors` counts them.

    Args:
        boxes, labels: (D, 4) and (D,), detections that match no object.
        objects, object_labels: (N, 4) and (N,), the objects of the image.
    """
    ious = box_iou(torch.from_numpy(boxes).double(), torch.from_numpy(objects).double()).numpy()  # (D, N)
    is_same = labels[:, None] == object_labels[None]
    same = np.where(is_same, ious, 0).max(axis=1, initial=0)
    other = np.where(is_same, 0, ious).max(axis=1, initial=0)
    rules = [
        (same >= BACKGROUND_IOU) & (same < POSITIVE_IOU),
        other >= POSITIVE_IOU,
        same >= POSITIVE_IOU,
        np.maximum(same, other) <= BACKGROUND_IOU,
    ]
    return np.select(rules, KINDS[:-1], KINDS[-1]).tolist()
