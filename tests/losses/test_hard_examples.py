"""Hard example mining compared with brute force and hand-computed cases."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.detection.assignment import Assignment
from retinanet.losses.box_losses import SmoothL1Loss
from retinanet.losses.detection import DetectionLoss
from retinanet.losses.hard_examples import HardExampleMining
from retinanet.losses.sigmoid import SigmoidFocalLoss
from retinanet.structures import HeadOutputs, Targets

LEVELS = (60, 12, 8)
ANCHORS, CLASSES = sum(LEVELS), 3


def scene(seed, *, images=2, positive=0.2, side=40.0):
    """Head outputs, labels (K for background) and valid mask. The smaller the side, the more the anchors overlap."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(ANCHORS, 2, generator=generator) * side
    anchors = torch.cat([corner, corner + 8 + torch.rand(ANCHORS, 2, generator=generator) * 16], dim=1)
    logits = torch.randn(images, ANCHORS, CLASSES, generator=generator) * 3
    draw = torch.rand(images, ANCHORS, generator=generator)
    labels = torch.where(draw < positive, torch.randint(CLASSES, draw.shape, generator=generator), CLASSES)
    outputs = HeadOutputs(
        class_logits=[level.requires_grad_() for level in logits.split(LEVELS, dim=1)],
        box_deltas=[torch.zeros(images, count, 4, requires_grad=True) for count in LEVELS],
        anchors=[level.view(1, 1, -1, 4) for level in anchors.split(LEVELS)],
    )
    return outputs, labels, torch.rand(images, ANCHORS, generator=generator) < 0.8


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    return intersection / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection)


def select_by_brute_force(outputs, labels, valid, *, keep, nms_iou, one_to_three):
    """Brute force over images and anchors: torch's cross entropy, greedy suppression, and the limits."""
    logits = torch.cat(outputs.class_logits, 1)
    targets = F.one_hot(labels, CLASSES + 1)[..., :-1].double()
    losses = F.binary_cross_entropy_with_logits(logits.double(), targets, reduction="none").sum(-1)
    anchors = torch.cat([level.view(-1, 4) for level in outputs.anchors]).double().tolist()
    selected = torch.zeros_like(valid)
    for image in range(len(labels)):

        def hardest(candidates, most, image=image):
            kept = []
            for i in losses[image].argsort(descending=True).tolist():
                apart = nms_iou is None or all(iou(anchors[i], anchors[j]) <= nms_iou for j in kept)
                if candidates[i] and apart:
                    kept.append(i)
            return kept[:most]

        is_object = labels[image] < CLASSES
        if one_to_three:
            selection = hardest(valid[image] & is_object, max(1, keep // 4))
            selection += hardest(valid[image] & ~is_object, min(3 * len(selection), keep - len(selection)))
        else:
            selection = hardest(valid[image], keep)
        selected[image, selection] = True
    return selected


@settings(deadline=None, derandomize=True)  # losses that are equal up to rounding may be in either order
@given(
    seed=st.integers(0, 10_000),
    keep=st.sampled_from([1, 2, 3, 5, 8, 40, 1000]),
    nms_iou=st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
    one_to_three=st.booleans(),
    positive=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    side=st.sampled_from([0.0, 10.0, 100.0]),
)
def test_selection_equals_brute_force(seed, keep, nms_iou, one_to_three, positive, side):
    outputs, labels, valid = scene(seed, positive=positive, side=side)
    mining = {"keep": keep, "nms_iou": nms_iou, "one_to_three": one_to_three}
    selected = HardExampleMining(**mining)(outputs, labels, valid)
    assert torch.equal(selected, select_by_brute_force(outputs, labels, valid, **mining))


def by_hand(logits, labels, boxes, **mining):
    outputs = HeadOutputs([torch.tensor([[[x] for x in logits]])], [], [torch.tensor(boxes).view(1, 1, -1, 4)])
    valid = torch.ones(1, len(labels), dtype=torch.bool)
    return HardExampleMining(**mining)(outputs, torch.tensor([labels]), valid)[0].nonzero().flatten().tolist()


def test_harder_of_two_overlapping_anchors_is_selected():
    # All anchors are background, so a higher logit is harder. The first two overlap by 8 / 10.
    boxes = [[0.0, 0, 9, 10], [0, 0, 10, 9], [50, 0, 60, 10], [90, 0, 99, 10]]
    logits, labels = [1.0, 3.0, 2.0, -4.0], [1, 1, 1, 1]
    assert by_hand(logits, labels, boxes, keep=3, nms_iou=0.7) == [1, 2, 3]
    assert by_hand(logits, labels, boxes, keep=3, nms_iou=0.9) == [0, 1, 2]
    assert by_hand(logits, labels, boxes, keep=3, nms_iou=None) == [0, 1, 2]


def test_one_to_three_selects_three_negatives_per_positive():
    boxes = [[20.0 * i, 0, 20 * i + 10, 10] for i in range(8)]
    logits, labels = [5.0, 7, 6, 4, 3, 2, -1, 1], [1, 1, 1, 1, 1, 1, 0, 0]
    # The object with logit -1 is the harder one; the hardest negatives are those with the highest logits.
    assert by_hand(logits, labels, boxes, keep=4, one_to_three=True) == [0, 1, 2, 6]
    assert by_hand(logits, labels, boxes, keep=8, one_to_three=True) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert by_hand(logits, labels, boxes, keep=2, one_to_three=True) == [1, 6]
    assert by_hand(logits, labels, boxes, keep=4) == [0, 1, 2, 3]
    assert by_hand(logits, [1] * 8, boxes, keep=4, one_to_three=True) == []


def detection_loss(outputs, labels, valid, hard_examples):
    images = len(labels)
    targets = Targets(
        boxes=torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(images, CLASSES, 4),
        labels=torch.arange(CLASSES).expand(images, -1),
        is_object=torch.ones(images, CLASSES, dtype=torch.bool),
        is_crowd=torch.zeros(images, CLASSES, dtype=torch.bool),
    )
    is_object = labels < CLASSES
    assignment = Assignment(labels.clamp(max=CLASSES - 1), valid & is_object, valid & ~is_object)
    criterion = DetectionLoss(SigmoidFocalLoss(alpha=None, gamma=0.0), SmoothL1Loss(), hard_examples=hard_examples)
    return criterion(outputs, assignment, targets, torch.tensor(7.0))


def test_class_loss_is_the_cross_entropy_of_the_selected_anchors():
    outputs, labels, valid = scene(3)
    mining = {"keep": 6, "nms_iou": 0.3, "one_to_three": False}
    losses = detection_loss(outputs, labels, valid, HardExampleMining(**mining))
    gradients = torch.autograd.grad(losses.classification, outputs.class_logits)
    selected = select_by_brute_force(outputs, labels, valid, **mining)
    one_hot = F.one_hot(labels, CLASSES + 1)[..., :-1].float()
    exact = F.binary_cross_entropy_with_logits(
        torch.cat(outputs.class_logits, 1)[selected], one_hot[selected], reduction="sum"
    )
    assert_close(losses.classification, exact / 7)
    assert_close(gradients, torch.autograd.grad(exact / 7, outputs.class_logits))
    assert torch.equal(torch.cat(gradients, 1).abs().sum(-1) > 0, selected)
    assert losses.box_regression == detection_loss(outputs, labels, valid, None).box_regression > 0


def test_easy_objects_are_ranked_by_their_small_losses():
    # softplus(-16) = 1.1e-7 and softplus(-18) = 1.5e-8: added to 16 and 18, both would be lost.
    logits = torch.tensor([[[18.0], [16.0], [17.0]]])
    three = HeadOutputs([logits], [torch.zeros(1, 3, 4)], [torch.tensor([0.0, 0.0, 8.0, 8.0]).expand(1, 1, 3, 4)])
    labels, valid = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    assert HardExampleMining(keep=1, nms_iou=None)(three, labels, valid).tolist() == [[False, True, False]]
    assert HardExampleMining(keep=2, nms_iou=None)(three, labels, valid).tolist() == [[False, True, True]]


def test_keeping_all_anchors_is_cross_entropy():
    outputs, labels, valid = scene(4)
    every = HardExampleMining(keep=ANCHORS, nms_iou=None)
    assert tuple(detection_loss(outputs, labels, valid, every)) == tuple(detection_loss(outputs, labels, valid, None))


@pytest.mark.parametrize("one_to_three", [False, True])
def test_loss_and_gradient_are_zero_if_all_anchors_are_ignored(one_to_three):
    outputs, labels, valid = scene(5)
    mining = HardExampleMining(one_to_three=one_to_three)
    losses = detection_loss(outputs, labels, torch.zeros_like(valid), mining)
    losses.total.backward()
    assert losses.total == 0
    assert all((level.grad == 0).all() for level in outputs.class_logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_have_a_finite_loss_and_gradient(dtype):
    outputs, labels, valid = scene(6)
    extreme = [(level.detach() * 1e4).to(dtype).requires_grad_() for level in outputs.class_logits]
    outputs = outputs._replace(class_logits=extreme)
    losses = detection_loss(outputs, labels, valid, HardExampleMining(keep=8))
    losses.total.backward()
    assert losses.total.isfinite() and all(level.grad.isfinite().all() for level in extreme)


def test_nan_logit_is_selected_and_makes_the_loss_nan():
    outputs, labels, valid = scene(7)
    outputs.class_logits[0].data[0, 0, 0] = torch.nan
    valid[0, 0] = True
    assert HardExampleMining(keep=1)(outputs, labels, valid)[0].nonzero().flatten().tolist() == [0]
    assert detection_loss(outputs, labels, valid, HardExampleMining(keep=1)).classification.isnan()
