"""What the detector learns from: a class loss on anchors, a regression loss on boxes (Lin et al. 2017, section 4)."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from retinanet.config import BoxLossConfig, ClassLossConfig, LossConfig, WeighedByClass
from retinanet.detection.assignment import Assignment
from retinanet.detection.boxes import decode, overlap
from retinanet.losses.boxes import CIoU, DIoU, GIoU, SmoothL1
from retinanet.losses.class_weights import checked_alpha
from retinanet.losses.focal import FocalStar, Hinge, SigmoidFocal
from retinanet.losses.fused_sigmoid import SigmoidLoss
from retinanet.losses.hard_examples import HardExamples
from retinanet.losses.quality import QualityFocal, QualityLoss, Varifocal
from retinanet.losses.softmax_focal import SoftmaxFocal
from retinanet.structures import HeadOutputs, Targets


class ClassLoss(Protocol):
    def __call__(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """(B, A_l, K), (B, A_l) with K for background, (B, A_l) -> () summed, float32. Of a softmax (B, A_l, K + 1)."""


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
    """Class loss over every anchor that is not ignored, box loss over positive ones, both divided by `num_positive`.

    Args:
        class_loss: a `QualityLoss` is given the IoU of each anchor's decoded box with its object, too.
        box_loss: of the decoded boxes or of the deltas.
        class_weight, box_weight: of the two in the total.
        hard_examples: the class loss is over the anchors that it chooses, and those alone; box loss and divisor are as
            without it. (Shrivastava et al. take both losses of the chosen ones, and divide by their number.)
        background_logit: the last logit is that of background, as a softmax has it; else every logit is of a class.
    """

    def __init__(
        self,
        class_loss: ClassLoss | QualityLoss,
        box_loss: BoxLoss,
        *,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        hard_examples: HardExamples | None = None,
        background_logit: bool = False,
    ):
        super().__init__()
        self.class_loss = class_loss
        self.box_loss = box_loss
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.hard_examples = hard_examples
        self.background_logit = background_logit

    def forward(
        self, predictions: HeadOutputs, assignment: Assignment, targets: Targets, num_positive: Tensor
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

    def sums_per_level(self, predictions: HeadOutputs, assignment: Assignment, targets: Targets) -> LevelSums:
        """What `forward` adds up, level by level; the arguments are its own."""
        num_classes = predictions.class_logits[0].shape[-1] - self.background_logit
        labels = torch.where(assignment.positive, targets.labels.gather(1, assignment.gt_index), num_classes)  # (B, A)
        counted = assignment.positive | assignment.negative
        if self.hard_examples:
            counted = self.hard_examples(predictions, labels, counted)
        sizes = [deltas.shape[1] for deltas in predictions.box_deltas]
        parts = [part.split(sizes, dim=1) for part in (labels, counted, assignment.positive, assignment.gt_index)]
        sums = LevelSums([], [])
        for logits, deltas, grid, labels, counted, positive, gt_index in zip(*predictions, *parts, strict=True):
            anchors, deltas = grid.view(-1, 4), deltas.float()
            boxes = targets.boxes.gather(1, gt_index[..., None].expand(-1, -1, 4))
            if isinstance(self.class_loss, QualityLoss):
                shared, union = overlap(decode(deltas.detach(), anchors), boxes)
                sums.classification.append(self.class_loss(logits, labels, counted, shared / union))
            else:
                sums.classification.append(self.class_loss(logits, labels, counted))
            # Computed for every anchor and masked: a boolean index would make the device wait for the host.
            box_loss = self.box_loss(deltas, boxes, anchors)
            sums.box_regression.append(torch.where(positive, box_loss, 0).sum())
        return sums


def build_loss(cfg: LossConfig, *, num_classes: int | None = None, compile: bool = False) -> DetectionLoss:
    """
    Args:
        num_classes: what a list of class weights is held against; None takes the list as it is.

    Raises:
        InputError: class weights for another number of classes, or such as a run works out when it starts.
    """
    return DetectionLoss(
        build_class_loss(cfg.classification, num_classes=num_classes, compile=compile),
        build_box_loss(cfg.box),
        class_weight=cfg.class_weight,
        box_weight=cfg.box_weight,
        hard_examples=build_hard_examples(cfg.classification),
        background_logit=cfg.classification.type == "softmax_focal",
    )


def build_class_loss(cfg: ClassLossConfig, *, num_classes: int | None, compile: bool) -> ClassLoss | QualityLoss:
    alpha = checked_alpha(cfg, num_classes) if isinstance(cfg, WeighedByClass) else None
    match cfg.type:
        case "focal":
            return SigmoidFocal(alpha=alpha, gamma=cfg.gamma, compile=compile)
        case "cross_entropy" | "ohem":
            return SigmoidFocal(alpha=alpha, gamma=0.0, compile=compile)
        case "softmax_focal":
            return SoftmaxFocal(alpha=alpha, gamma=cfg.gamma)
        case "focal_star":
            return SigmoidLoss(FocalStar(cfg.gamma, cfg.beta), compile=compile)
        case "hinge":
            return SigmoidLoss(Hinge(), compile=compile)
        case "quality_focal":
            return QualityFocal(beta=cfg.beta, compile=compile)
        case "varifocal":
            return Varifocal(alpha=cfg.alpha, gamma=cfg.gamma, compile=compile)


def build_hard_examples(cfg: ClassLossConfig) -> HardExamples | None:
    if cfg.type != "ohem":
        return None
    return HardExamples(keep=cfg.keep, nms_iou=cfg.nms_iou, one_to_three=cfg.one_to_three)


def build_box_loss(cfg: BoxLossConfig) -> BoxLoss:
    match cfg.type:
        case "smooth_l1":
            return SmoothL1(beta=cfg.beta)
        case "giou":
            return GIoU()
        case "diou":
            return DIoU()
        case "ciou":
            return CIoU()
