"""The detection criterion: class loss over anchors plus box loss over positive anchors, divided by a given count."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from retinanet.detection.assignment import Assignment
from retinanet.detection.boxes import decode, overlap
from retinanet.losses.box_losses import BoxLoss
from retinanet.losses.class_loss import ClassLoss
from retinanet.losses.hard_examples import HardExampleMining
from retinanet.structures import HeadOutputs, Targets

# A logit whose score is 0 in float32, even if it is multiplied by a small `gamma` in FL* (0.01 or more). All 16-bit
# types can represent it. It is finite, so checks for non-finite values ignore it.
SCORE_ZERO = -(2.0**15)


class Losses(NamedTuple):
    """Weighted and normalised losses, each () float32 on the device."""

    classification: Tensor
    box_regression: Tensor

    @property
    def total(self) -> Tensor:
        return self.classification + self.box_regression


class Criterion(Protocol):
    """Loss of a batch, from the raw outputs to the two terms that are added and minimised."""

    def __call__(self, outputs: HeadOutputs, assignment: Assignment, targets: Targets, num_positive: Tensor) -> Losses:
        """Compute the losses, differentiable with respect to the outputs; the arguments are those of `DetectionLoss`.

        Each term must be a sum over images that is divided by `num_positive` and by nothing that depends on the batch.
        Only then does the gradient of a global batch not depend on how it is split. A loss of another branch can be
        added to either term. Reading a value on the host, as `.item()` does, would make every step wait for the device.
        """


class LevelSums(NamedTuple):
    """Sums of the losses of a batch on each pyramid level, neither weighted nor normalised: L x () each."""

    classification: list[Tensor]
    box_regression: list[Tensor]


class DetectionLoss(nn.Module):
    """Class loss over non-ignored anchors plus box loss over positive anchors, divided by `num_positive`.

    Where the annotations of a class are incomplete, only its positive anchors contribute to the loss of that class.

    Args:
        class_loss: class loss, which declares whether it needs the IoU of decoded boxes or a background logit.
        box_loss: box loss that returns one value per anchor.
        class_weight: weight of the class loss in the total.
        box_weight: weight of the box loss in the total.
        hard_examples: restricts the class loss to the anchors it selects; the box loss and the divisor do not change.
            (Shrivastava et al. restrict both losses and divide by the number of selected anchors.)
    """

    def __init__(
        self,
        class_loss: ClassLoss,
        box_loss: BoxLoss,
        *,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        hard_examples: HardExampleMining | None = None,
    ):
        super().__init__()
        self.class_loss = class_loss
        self.box_loss = box_loss
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.hard_examples = hard_examples

    def forward(self, outputs: HeadOutputs, assignment: Assignment, targets: Targets, num_positive: Tensor) -> Losses:
        """Compute the losses of a batch, divided by `num_positive`.

        Args:
            outputs: head outputs for B images, any float type.
            assignment: assignment for the same images, over the anchors of all levels in order.
            targets: ground truth; `assignment.gt_index` refers to its rows.
            num_positive: () float32, number of positive anchors in the global batch, at least 1.
        """
        class_sum, box_sum = map(sum, self.sums_per_level(outputs, assignment, targets))
        return Losses(self.class_weight * class_sum / num_positive, self.box_weight * box_sum / num_positive)

    def sums_per_level(self, outputs: HeadOutputs, assignment: Assignment, targets: Targets) -> LevelSums:
        """Compute the sums that `forward` combines, from the same arguments."""
        num_classes = outputs.class_logits[0].shape[-1] - self.class_loss.has_background_logit
        labels = torch.where(assignment.positive, targets.labels.gather(1, assignment.gt_index), num_classes)  # (B, A)
        valid = assignment.positive | assignment.negative
        if targets.is_complete is not None:
            outputs = outputs._replace(
                class_logits=without_incomplete(outputs.class_logits, labels, targets.is_complete)
            )
        if self.hard_examples:
            valid = self.hard_examples(outputs, labels, valid)
        sizes = [deltas.shape[1] for deltas in outputs.box_deltas]
        # Join the levels, which needs a fifth of the kernels and is cheap, because boxes have few numbers per anchor.
        deltas = torch.cat(outputs.box_deltas, dim=1).float()
        anchors = torch.cat([grid.view(-1, 4) for grid in outputs.anchors])
        boxes = targets.boxes.gather(1, assignment.gt_index[..., None].expand(-1, -1, 4))
        # Compute the loss for every anchor, then mask it: boolean indexing would synchronise the device.
        box_losses = torch.where(assignment.positive, self.box_loss(deltas, boxes, anchors), 0)
        ious: Sequence[Tensor | None] = [None] * len(sizes)
        if self.class_loss.needs_iou:
            intersection, union = overlap(decode(deltas.detach(), anchors), boxes)
            ious = (intersection / union).split(sizes, dim=1)
        per_level = zip(outputs.class_logits, labels.split(sizes, dim=1), valid.split(sizes, dim=1), ious, strict=True)
        return LevelSums(
            [self.class_loss(logits, labels, valid, iou) for logits, labels, valid, iou in per_level],
            [box_loss.sum() for box_loss in box_losses.split(sizes, dim=1)],
        )


def without_incomplete(class_logits: list[Tensor], labels: Tensor, is_complete: Tensor) -> list[Tensor]:
    """Replace logits with `SCORE_ZERO` where it is unknown whether the anchor shows an object of their class.

    Losses with one sigmoid per class are then exactly 0 in float32, and the replaced logits get no gradient. This does
    not work for a softmax, whose background logit asserts that there is no object of any class.

    Args:
        class_logits: L x (B, A_l, K), without a background logit.
        labels: (B, A), 0..K-1, or K for background.
        is_complete: (B, K) bool, see `Targets`.

    Returns: L x (B, A_l, K), the same values for complete classes and for each anchor's own class.
    """
    classes = torch.arange(is_complete.shape[1], device=labels.device)
    of_levels = labels.split([logits.shape[1] for logits in class_logits], dim=1)
    return [
        logits.masked_fill(~(is_complete[:, None] | (of_level[..., None] == classes)), SCORE_ZERO)
        for logits, of_level in zip(class_logits, of_levels, strict=True)
    ]
