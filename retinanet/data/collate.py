"""Collate samples that share a padded shape into a batch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from retinanet.data.reader import PreparedSample
from retinanet.structures import Batch, Targets

NUM_BOXES_DIVISOR = 8  # pad targets to 8, 16, 24, ... boxes: few distinct shapes and little padding


def collate(prepared: Sequence[PreparedSample]) -> Batch:
    """Pad images to the padded shape of their batch, and ground truth to a common length."""
    samples = [entry.sample for entry in prepared]
    images = empty_images(len(prepared), len(samples[0].image), *prepared[0].planned.padded_shape)
    # NumPy copies in this thread. torch would split each copy across threads, which stall each other on a busy host.
    for image, sample in zip(images.numpy(), samples, strict=True):
        height, width = sample.image.shape[-2:]
        image[:, :height, :width] = sample.image.numpy()
        image[:, height:] = 0
        image[:, :height, width:] = 0
    targets = pad_targets([(sample.boxes, sample.labels, sample.is_crowd) for sample in samples])
    complete = [sample.is_complete for sample in samples if sample.is_complete is not None]
    return Batch(
        images=images,
        image_sizes=torch.tensor([tuple(sample.image.shape[-2:]) for sample in samples]),
        original_sizes=torch.tensor([entry.original_size for entry in prepared]),
        targets=targets._replace(is_complete=torch.stack(complete) if complete else None),
        image_indices=tuple(entry.planned.index for entry in prepared),
    )


def empty_images(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Allocate an uninitialised (B, C, H, W) uint8 tensor; workers use shared memory, so sending it copies nothing.

    Channels are interleaved in memory, like those of decoded and resized images, so images are copied row by row.
    """
    shape = (batch, height, width, channels)
    if get_worker_info() is None:
        pixels = torch.empty(shape, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as in torch's default_collate
        pixels = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    return pixels.permute(0, 3, 1, 2)


def pad_targets(truths: list[tuple[Tensor, Tensor, Tensor]]) -> Targets:
    """Pad each image's boxes (N, 4), labels (N,) and crowd flags (N,), and stack them in one record."""
    most = max(len(labels) for _, labels, _ in truths)
    length = NUM_BOXES_DIVISOR * max(1, math.ceil(most / NUM_BOXES_DIVISOR))
    batch = len(truths)
    # Padding boxes have a non-zero area, which keeps their encoding finite; the masks exclude them.
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(batch, length, 1)
    labels = torch.zeros(batch, length, dtype=torch.int64)
    is_object = torch.zeros(batch, length, dtype=torch.bool)
    is_crowd = torch.zeros(batch, length, dtype=torch.bool)
    for row, (row_boxes, row_labels, row_crowd) in enumerate(truths):
        count = len(row_labels)
        boxes[row, :count] = row_boxes
        labels[row, :count] = row_labels
        is_object[row, :count] = ~row_crowd
        is_crowd[row, :count] = row_crowd
    return Targets(boxes, labels, is_object, is_crowd, has_crowd=bool(is_crowd.any()))
