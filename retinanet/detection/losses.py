"""What the detector learns from: focal loss on classes, a regression loss on boxes (Lin et al. 2017, section 3)."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from retinanet.config import LossConfig
from retinanet.detection.assignment import Assignment
from retinanet.detection.box_losses import CIoU, DIoU, GIoU, SmoothL1
from retinanet.detection.focal_loss import SigmoidFocal
from retinanet.structures import Predictions, Targets


class ClassLoss(Protocol):
    def __call__(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """(B, A_l, K), (B, A_l) with K for background, (B, A_l) -> () summed, float32."""


class BoxLoss(Protocol):
    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor: ...  # -> (B, A_l), one an anchor


class Losses(NamedTuple):
    """Scalars, float32, on the device."""

    classification: Tensor
    box_regression: Tensor

    @property
    def total(self) -> Tensor:
        return self.classification + self.box_regression


class LevelSums(NamedTuple):
    """Sums over a batch, neither weighted nor divided: L x () each."""

    classification: list[Tensor]
    box_regression: list[Tensor]


class DetectionLoss(nn.Module):
    """Class loss over every anchor that is not ignored, box loss over positive ones, both divided by `num_positive`."""

    def __init__(self, class_loss: ClassLoss, box_loss: BoxLoss, *, class_weight: float = 1.0, box_weight: float = 1.0):
        super().__init__()
        self.class_loss = class_loss
        self.box_loss = box_loss
        self.class_weight = class_weight
        self.box_weight = box_weight

    def forward(
        self, predictions: Predictions, assignment: Assignment, targets: Targets, num_positive: Tensor
    ) -> Losses:
        """Sum over the batch, divided by `num_positive`: the positives of the whole global batch, at least 1.

        Args:
            predictions: of B images, any float type.
            assignment: of the same images, over the anchors of all levels in their order.
            targets: ground truth, the rows that `assignment.gt_index` points at.
            num_positive: () float32.
        """
        class_sum, box_sum = map(sum, self.sums_per_level(predictions, assignment, targets))
        return Losses(self.class_weight * class_sum / num_positive, self.box_weight * box_sum / num_positive)

    def sums_per_level(self, predictions: Predictions, assignment: Assignment, targets: Targets) -> LevelSums:
        """What `forward` adds up, level by level; the arguments are its own."""
        sizes = [deltas.shape[1] for deltas in predictions.box_deltas]
        gt_index, positive, negative = (part.split(sizes, dim=1) for part in assignment)
        sums = LevelSums([], [])
        for level, (logits, deltas, anchors) in enumerate(zip(*predictions, strict=True)):
            index = gt_index[level]  # (B, A_l)
            labels = torch.where(positive[level], targets.labels.gather(1, index), logits.shape[-1])
            sums.classification.append(self.class_loss(logits, labels, positive[level] | negative[level]))
            boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
            # Computed for every anchor and masked: a boolean index would make the device wait for the host.
            box_loss = self.box_loss(deltas.float(), boxes, anchors.view(-1, 4))
            sums.box_regression.append(torch.where(positive[level], box_loss, 0).sum())
        return sums


def build_loss(cfg: LossConfig, *, compile: bool = False) -> DetectionLoss:
    class_loss = SigmoidFocal(alpha=cfg.classification.alpha, gamma=cfg.classification.gamma, compile=compile)
    match cfg.box.type:
        case "smooth_l1":
            box_loss: BoxLoss = SmoothL1(beta=cfg.box.beta)
        case "giou":
            box_loss = GIoU()
        case "diou":
            box_loss = DIoU()
        case "ciou":
            box_loss = CIoU()
    return DetectionLoss(class_loss, box_loss, class_weight=cfg.class_weight, box_weight=cfg.box_weight)
