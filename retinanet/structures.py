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
    """Ground truth of a batch, padded to one N >= 1. A row in neither mask is padding: box (0, 0, 1, 1), label 0."""

    boxes: Tensor  # (B, N, 4) float32
    labels: Tensor  # (B, N) int64, 0..K-1
    is_object: Tensor  # (B, N) bool
    is_crowd: Tensor  # (B, N) bool, regions in which no anchor is background
    has_crowd: bool = True  # False only if `is_crowd` is all False; known on the host, so no device read is needed

    def to(self, device: torch.device) -> "Targets":
        """Copy every tensor to `device`, without waiting for the copies."""
        return self._replace(
            boxes=self.boxes.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            is_object=self.is_object.to(device, non_blocking=True),
            is_crowd=self.is_crowd.to(device, non_blocking=True),
        )

    def tensors(self) -> list[Tensor]:
        """All tensors of the record."""
        return [self.boxes, self.labels, self.is_object, self.is_crowd]


class Unreadable(NamedTuple):
    """An image that could not be read for a batch, and the image that replaced it."""

    index: int  # in the dataset, like `replaced_by`
    epoch: int
    replaced_by: int
    reason: str  # error message; names the file


class Batch(NamedTuple):
    """Images resized into one padded shape, with their ground truth."""

    images: Tensor  # (B, 3, H, W) uint8, RGB, zero in the padding
    image_sizes: Tensor  # (B, 2) int64, height and width inside the padding
    original_sizes: Tensor  # (B, 2) int64, height and width of the file
    targets: Targets
    image_indices: tuple[int, ...]  # positions in the dataset
    unreadable: tuple[Unreadable, ...] = ()  # images that others in this batch replace

    def to(self, device: torch.device) -> "Batch":
        """Copy every tensor to `device`, without waiting for the copies."""
        return self._replace(
            images=self.images.to(device, non_blocking=True),
            image_sizes=self.image_sizes.to(device, non_blocking=True),
            original_sizes=self.original_sizes.to(device, non_blocking=True),
            targets=self.targets.to(device),
        )

    def tensors(self) -> list[Tensor]:
        """All tensors of the record, those of the targets included."""
        return [self.images, self.image_sizes, self.original_sizes, *self.targets.tensors()]


class HeadOutputs(NamedTuple):
    """Raw outputs of the network, per pyramid level; the same in training and evaluation mode."""

    class_logits: list[Tensor]  # L x (B, A_l, K); with softmax K + 1, background last
    box_deltas: list[Tensor]  # L x (B, A_l, 4)
    anchors: list[Tensor]  # L x (H_l, W_l, a, 4) with a anchors per grid cell: A_l = H_l * W_l * a


class Detections(NamedTuple):
    """Objects found in one image, best first, boxes in pixels of the original image."""

    boxes: Tensor  # (D, 4) float32
    scores: Tensor  # (D,) float32
    labels: Tensor  # (D,) int64
