"""Non-maximum suppression within groups, such as classes."""

import torchvision
from torch import Tensor


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, *, max_iou: float) -> Tensor:
    """Keep the best of the boxes that overlap within a group; groups do not affect each other. CPU only.

    Args:
        boxes: (D, 4).
        scores: (D,).
        groups: (D,) int64, the label for suppression class by class.
        max_iou: of two boxes of a group with a larger IoU, the one with the lower score is removed.

    Returns: (D_kept,) int64, indices of the kept boxes, best first.
    """
    if len(boxes) == 0:
        return groups.new_zeros(0)
    # One call for all groups, each shifted to a separate area. In float64 the shift costs no precision; float32 would
    # lose up to a hundredth of a pixel with many classes.
    boxes = boxes.double()
    low = boxes.min()
    spacing = boxes.max() - low + 1
    return torchvision.ops.nms(boxes - low + (groups * spacing)[:, None], scores.double(), max_iou)
