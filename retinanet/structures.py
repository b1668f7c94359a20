"""Records that flow through the detector.

Shape letters, here and in every comment:
    B images   H, W padded input size   L pyramid levels   A anchors (A_l on one level)
    K classes, no background   N ground-truth boxes of one image, maybe 0   D detections of one image
Boxes are (x1, y1, x2, y2) in pixels of the padded input unless the name says otherwise.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """Ground truth of a batch, padded to one N, at least 1. A row in neither mask is padding: (0, 0, 1, 1), label 0."""

    boxes: Tensor  # (B, N, 4) float32
    labels: Tensor  # (B, N) int64, 0..K-1
    is_object: Tensor  # (B, N) bool
    is_crowd: Tensor  # (B, N) bool, regions where nothing is background
    has_crowd: bool = True  # False only where `is_crowd` is False throughout: the host knows without asking the device

    def to(self, device: torch.device) -> "Targets":
        return Targets(*(tensor.to(device, non_blocking=True) for tensor in self[:4]), self.has_crowd)


class Unreadable(NamedTuple):
    """An image that should have been in a batch, and what was done about it."""

    index: int  # in the data set, as `replaced_by`
    epoch: int
    replaced_by: int
    reason: str  # the message for a person; it names the file


class Batch(NamedTuple):
    """Images resized into one padded shape, and what is on them."""

    images: Tensor  # (B, 3, H, W) uint8, RGB, zero in the padding
    image_sizes: Tensor  # (B, 2) int64, height and width inside the padding
    original_sizes: Tensor  # (B, 2) int64, height and width of the file
    targets: Targets
    image_indices: tuple[int, ...]  # positions in the data set, for reports and for evaluation
    unreadable: tuple[Unreadable, ...] = ()  # in place of which others are in the batch

    def to(self, device: torch.device) -> "Batch":
        return self._replace(
            images=self.images.to(device, non_blocking=True),
            image_sizes=self.image_sizes.to(device, non_blocking=True),
            original_sizes=self.original_sizes.to(device, non_blocking=True),
            targets=self.targets.to(device),
        )

    def tensors(self) -> list[Tensor]:
        return [self.images, self.image_sizes, self.original_sizes, *self.targets[:4]]


class HeadOutputs(NamedTuple):
    """What the network says, level by level, the same in training and in evaluation."""

    class_logits: list[Tensor]  # L x (B, A_l, K); of a softmax K + 1, the last for background
    box_deltas: list[Tensor]  # L x (B, A_l, 4)
    anchors: list[Tensor]  # L x (H_l, W_l, a, 4), a in each cell of the grid: A_l = H_l W_l a


class Detections(NamedTuple):
    """Objects found in one image, best first, boxes in pixels of the original image."""

    boxes: Tensor  # (D, 4) float32
    scores: Tensor  # (D,) float32
    labels: Tensor  # (D,) int64
