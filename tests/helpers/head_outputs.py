"""Random head outputs, with ground truth and assignment."""

import torch

from retinanet.detection.assignment import Assignment
from retinanet.structures import HeadOutputs, Targets
from tests.helpers.boxes import random_boxes

NUM_CLASSES = 5
ANCHORS_PER_LEVEL = (40, 12, 3)


def random_outputs(batch, num_classes=NUM_CLASSES, seed=0, dtype=torch.float32):
    """Head outputs of three levels, as leaves that require a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(count, values):
        return torch.randn(batch, count, values, generator=generator).to(dtype).requires_grad_()

    return HeadOutputs(
        class_logits=[normal(count, num_classes) for count in ANCHORS_PER_LEVEL],
        box_deltas=[normal(count, 4) for count in ANCHORS_PER_LEVEL],
        anchors=list(random_boxes(sum(ANCHORS_PER_LEVEL), seed + 1).split(ANCHORS_PER_LEVEL)),
    )


def targets_of(*counts, num_rows=8, num_classes=NUM_CLASSES):
    """Padded targets of images with the given numbers of objects."""
    generator = torch.Generator().manual_seed(7)
    is_object = torch.arange(num_rows) < torch.tensor(counts)[:, None]
    boxes = random_boxes(len(counts) * num_rows, 3).view(len(counts), num_rows, 4)
    labels = torch.randint(num_classes, is_object.shape, generator=generator)
    return Targets(
        boxes=torch.where(is_object[..., None], boxes, torch.tensor([0.0, 0.0, 1.0, 1.0])),
        labels=labels * is_object,
        is_object=is_object,
        is_crowd=torch.zeros_like(is_object),
    )


def random_assignment(targets, seed=0):
    """Randomly make each anchor of each image positive for one of its objects, negative or ignored."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(targets.labels), sum(ANCHORS_PER_LEVEL))
    num_objects = targets.is_object.sum(1, keepdim=True)
    gt_index = (torch.rand(shape, generator=generator) * num_objects).long()
    draw = torch.rand(shape, generator=generator)
    positive = (draw < 0.2) & (num_objects > 0)
    return Assignment(gt_index, positive, negative=(draw < 0.8) & ~positive)
