"""Non-maximum suppression (NMS) within groups, such as classes: boxes are removed, or their scores lowered."""

import torch
import torchvision
from torch import Tensor

from retinanet.config import SoftNms
from retinanet.detection.boxes import overlap


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


def soft_nms_by_group(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    method: SoftNms,
    max_iou: float,
    sigma: float,
    min_score: float,
    max_kept: int,
) -> tuple[Tensor, Tensor]:
    """Lower the scores of boxes that overlap a better one in the same group (Bodla et al. 2017). CPU only.

    The box with the highest score is kept and lowers the scores of the others, then the box with the highest remaining
    score, and so on. The time is proportional to the number of boxes that are kept, times D.

    Args:
        boxes: (D, 4), all with a positive area.
        scores, groups: as in `nms_by_group`.
        method: linear multiplies the scores of boxes with an IoU above `max_iou` by 1 - IoU; gaussian multiplies those
            of all boxes by exp(-IoU^2 / `sigma`).
        min_score: boxes are kept only if their lowered score is above this value, which must be at least 0.
        max_kept: maximum number of boxes that are kept.

    Returns: (D_kept,) int64, indices of the kept boxes, best first, and their lowered scores, (D_kept,).
    """
    boxes, remaining = boxes.double(), scores.double()
    kept, kept_scores = [], []
    for _ in range(min(max_kept, len(boxes))):
        best = int(remaining.argmax())
        score = float(remaining[best])
        if score <= min_score:
            break
        kept.append(best)
        kept_scores.append(score)
        intersection, union = overlap(boxes[best], boxes)
        iou = intersection / union
        factor = torch.exp(-(iou**2) / sigma) if method == "gaussian" else torch.where(iou > max_iou, 1 - iou, 1.0)
        remaining = torch.where(groups == groups[best], remaining * factor, remaining)
        remaining[best] = 0.0
    return groups.new_tensor(kept), scores.new_tensor(kept_scores)
