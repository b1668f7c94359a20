"""Non-maximum suppression within groups, such as classes."""

import torchvision
from torch import Tensor


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, *, max_iou: float) -> Tensor:
    """Suppress boxes that overlap a better one in the same group; groups do not affect each other. CPU only.

    Args:
        boxes: (D, 4).
        scores: (D,).
        groups: (D,) int64; pass labels to suppress each class separately.
        max_iou: if two boxes of a group have a larger IoU, the one with the lower score is removed.

    Returns: (D_kept,) int64, indices of the kept boxes, best first.
    """
    if len(boxes) == 0:
        return groups.new_zeros(0)
    # Handle all groups in one call by shifting each to a separate area. In float64 the shift loses no precision; in
    # float32, with many classes, it would lose up to a hundredth of a pixel.
    boxes = boxes.double()
    low = boxes.min()
    spacing = boxes.max() - low + 1
    return torchvision.ops.nms(boxes - low + (groups * spacing)[:, None], scores.double(), max_iou)
