"""What the detector learns from: focal loss on classes, a regression loss on boxes (Lin et al. 2017, section 3)."""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retinanet.config import LossConfig
from retinanet.detection.assignment import Assignment
from retinanet.detection.boxes import area, decode, encode
from retinanet.detection.focal_loss import SigmoidFocal
from retinanet.detection.softmax_focal_loss import SoftmaxFocal
from retinanet.errors import InputError
from retinanet.structures import Predictions, Targets

EPSILON = 1e-7  # square pixels, against a division by zero


class ClassLoss(Protocol):
    def __call__(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """(B, A_l, K), (B, A_l) with K for background, (B, A_l) -> () summed, float32. Of a softmax (B, A_l, K + 1)."""


class BoxLoss(Protocol):
    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor: ...  # -> (B, A_l), one an anchor


class SmoothL1:
    """Smooth L1 on the encoded offsets, summed over the four (Girshick 2015, eq. 3); beta 0 is L1."""

    def __init__(self, *, beta: float = 0.1):
        self.beta = beta

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        return F.smooth_l1_loss(deltas, encode(boxes, anchors), beta=self.beta, reduction="none").sum(-1)


class GIoU:
    """1 - generalised IoU of the decoded boxes (Rezatofighi et al. 2019).

    Not torchvision's: that indexes with a mask, where the device waits for the host.
    """

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        decoded = decode(deltas, anchors)
        low, high = torch.minimum(decoded, boxes), torch.maximum(decoded, boxes)
        width, height = (low[..., 2:] - high[..., :2]).clamp(min=0).unbind(-1)
        shared = width * height
        union = area(decoded) + area(boxes) - shared
        hull = area(torch.cat([low[..., :2], high[..., 2:]], dim=-1))
        return 1 - shared / (union + EPSILON) + (hull - union) / (hull + EPSILON)


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
    """Class loss over every anchor that is not ignored, box loss over positive ones, both divided by `num_positive`.

    Args:
        background_logit: the last logit is that of background, as a softmax has it; else every logit is of a class.
    """

    def __init__(
        self,
        class_loss: ClassLoss,
        box_loss: BoxLoss,
        *,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        background_logit: bool = False,
    ):
        super().__init__()
        self.class_loss = class_loss
        self.box_loss = box_loss
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.background_logit = background_logit

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
            background = logits.shape[-1] - self.background_logit
            labels = torch.where(positive[level], targets.labels.gather(1, index), background)
            sums.classification.append(self.class_loss(logits, labels, positive[level] | negative[level]))
            boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
            # Computed for every anchor and masked: a boolean index would make the device wait for the host.
            box_loss = self.box_loss(deltas.float(), boxes, anchors.view(-1, 4))
            sums.box_regression.append(torch.where(positive[level], box_loss, 0).sum())
        return sums


def build_loss(cfg: LossConfig, *, compile: bool = False) -> DetectionLoss:
    match cfg.classification.type:
        case "focal":
            class_loss: ClassLoss = SigmoidFocal(
                alpha=cfg.classification.alpha, gamma=cfg.classification.gamma, compile=compile
            )
        case "softmax_focal":
            if cfg.classification.alpha == "inverse_frequency":
                raise InputError("loss.classification.alpha is inverse_frequency, expected numbers in its place")
            class_loss = SoftmaxFocal(alpha=cfg.classification.alpha, gamma=cfg.classification.gamma)
    match cfg.box.type:
        case "smooth_l1":
            box_loss: BoxLoss = SmoothL1(beta=cfg.box.beta)
        case "giou":
            box_loss = GIoU()
    return DetectionLoss(
        class_loss,
        box_loss,
        class_weight=cfg.class_weight,
        box_weight=cfg.box_weight,
        background_logit=cfg.classification.type == "softmax_focal",
    )
