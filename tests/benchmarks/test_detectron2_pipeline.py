import torch
from torch.testing import assert_close

from retinanet.benchmarks.assignment import anchor_grids
from retinanet.benchmarks.detectron2_pipeline import label_anchors, losses
from retinanet.benchmarks.networks import Scene
from retinanet.config import LossConfig
from retinanet.detection.assignment import assign
from retinanet.losses.build import build_loss
from retinanet.structures import HeadOutputs


def test_reimplemented_loss_equals_ours():
    device, classes = torch.device("cpu"), 4
    scene = Scene(2, 64, 96, classes, device=device)
    grids = anchor_grids((64, 96), device)
    random = torch.Generator().manual_seed(0)
    counts = [grid[..., 0].numel() for grid in grids]
    logits = [torch.randn(2, count, classes, generator=random) for count in counts]
    deltas = [torch.randn(2, count, 4, generator=random) for count in counts]

    assignment = assign(grids, scene.targets)
    num_positive = assignment.positive.sum().float()
    ours = build_loss(LossConfig())(HeadOutputs(logits, deltas, grids), assignment, scene.targets, num_positive)

    anchors = torch.cat([grid.reshape(-1, 4) for grid in grids])
    labels, boxes = label_anchors(anchors, scene.objects, classes)
    assert_close(losses(anchors, logits, labels, deltas, boxes, classes), ours.total)
