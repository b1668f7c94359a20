"""The detection criterion, compared with a loop over images, and the losses that configs select."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.testing import assert_close

from retinanet.config import (
    CrossEntropyConfig,
    FocalConfig,
    HingeConfig,
    LossConfig,
    SmoothL1Config,
    SoftmaxFocalConfig,
)
from retinanet.detection.assignment import Assignment, assign
from retinanet.detection.boxes import decode, encode
from retinanet.losses.box_losses import CIoULoss, DIoULoss, GIoULoss, SmoothL1Loss
from retinanet.losses.build import build_class_loss, build_loss
from retinanet.losses.detection import DetectionLoss
from retinanet.losses.quality import QualityFocalLoss, VarifocalLoss
from retinanet.losses.sigmoid import SigmoidFocalLoss
from retinanet.structures import HeadOutputs
from tests.helpers.gradients import value_and_gradient
from tests.helpers.head_outputs import ANCHORS_PER_LEVEL, NUM_CLASSES, random_assignment, random_outputs, targets_of
from tests.helpers.losses import BOX_LOSSES, CLASS_LOSSES


def as_grid(anchors):
    """Arbitrary boxes as the anchors of all levels, in one cell."""
    return [torch.cat(anchors).view(1, 1, -1, 4)]


TORCHVISION = {
    "giou": torchvision.ops.generalized_box_iou_loss,
    "diou": torchvision.ops.distance_box_iou_loss,
    "ciou": torchvision.ops.complete_box_iou_loss,
}


def detection_loss_by_loop(outputs, assignment, targets, num_positive, *, box_loss, class_weight, box_weight):
    """Reference that joins all levels and loops over images, with only the valid anchors."""
    logits, deltas = torch.cat(outputs.class_logits, 1), torch.cat(outputs.box_deltas, 1)
    anchors = torch.cat(outputs.anchors)
    classification = box_regression = torch.zeros(())
    for image in range(len(logits)):
        positive, negative = assignment.positive[image], assignment.negative[image]
        rows = assignment.gt_index[image][positive]
        one_hot = torch.zeros_like(logits[image])
        one_hot[positive] = F.one_hot(targets.labels[image][rows], logits.shape[-1]).float()
        valid = positive | negative
        classification = classification + torchvision.ops.sigmoid_focal_loss(
            logits[image][valid], one_hot[valid], alpha=0.25, gamma=2.0, reduction="sum"
        )
        boxes, matched = targets.boxes[image][rows], anchors[positive]
        if box_loss in TORCHVISION:
            loss = TORCHVISION[box_loss](decode(deltas[image][positive], matched), boxes, reduction="sum")
        else:
            loss = F.smooth_l1_loss(deltas[image][positive], encode(boxes, matched), beta=0.1, reduction="sum")
        box_regression = box_regression + loss
    return class_weight * classification / num_positive, box_weight * box_regression / num_positive


@pytest.mark.parametrize("num_classes", [1, NUM_CLASSES])
@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou", "diou", "ciou"])
def test_detection_loss_equals_a_loop_over_images(box_loss, num_classes):
    outputs = random_outputs(3, num_classes)
    targets = targets_of(5, 0, 8, num_classes=num_classes)
    assignment = random_assignment(targets)
    num_positive = assignment.positive.sum().float()
    assert num_positive > 10
    leaves = [*outputs.class_logits, *outputs.box_deltas]

    box = {"smooth_l1": SmoothL1Loss(beta=0.1), "giou": GIoULoss(), "diou": DIoULoss(), "ciou": CIoULoss()}[box_loss]
    criterion = DetectionLoss(SigmoidFocalLoss(), box, class_weight=1.5, box_weight=0.5)
    losses = criterion(outputs, assignment, targets, num_positive)
    gradients = torch.autograd.grad(losses.total, leaves)
    expected = detection_loss_by_loop(
        outputs, assignment, targets, num_positive, box_loss=box_loss, class_weight=1.5, box_weight=0.5
    )
    assert_close(tuple(losses), expected, rtol=1e-5, atol=1e-5)
    assert_close(losses.total, sum(expected), rtol=1e-5, atol=1e-5)
    assert_close(gradients, torch.autograd.grad(sum(expected), leaves), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25, (0.1, 0.2, 0.3, 0.4, 0.5)])
def test_softmax_focal_loss_equals_a_loop_over_anchors(alpha):
    outputs, targets = random_outputs(3, NUM_CLASSES + 1), targets_of(5, 0, 8)
    assignment = random_assignment(targets)
    criterion = build_loss(LossConfig(classification=SoftmaxFocalConfig(alpha=alpha, gamma=1.0)))
    losses = criterion(outputs, assignment, targets, torch.tensor(4.0))
    weights = {None: [1.0] * 6, 0.25: [0.25] * 5 + [0.75]}.get(alpha, [0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
    logits = torch.cat(outputs.class_logits, 1)
    expected = 0.0
    for image, anchor in torch.nonzero(assignment.positive | assignment.negative).tolist():
        is_object = assignment.positive[image, anchor]
        label = targets.labels[image, assignment.gt_index[image, anchor]] if is_object else NUM_CLASSES
        p = logits[image, anchor].softmax(0)[label]
        expected = expected - weights[label] * (1 - p) * p.log() / 4
    assert_close(losses.classification, expected, rtol=1e-5, atol=1e-5)
    leaves = outputs.class_logits
    gradients = torch.autograd.grad(losses.classification, leaves)
    assert_close(gradients, torch.autograd.grad(expected, leaves), rtol=1e-4, atol=1e-6)


def test_levels_are_matched_in_order():
    # The only positive anchor is on the last level and has an exact prediction; no other anchor may contribute.
    outputs = random_outputs(1)
    targets = targets_of(1)
    last = sum(ANCHORS_PER_LEVEL) - 1
    positive = torch.arange(last + 1)[None] == last
    assignment = Assignment(torch.zeros_like(positive, dtype=torch.int64), positive, torch.zeros_like(positive))
    outputs.box_deltas[-1].data[0, -1] = encode(targets.boxes[0, 0], outputs.anchors[-1][-1])
    outputs.class_logits[-1].data[0, -1] = torch.where(torch.arange(NUM_CLASSES) == targets.labels[0, 0], 100.0, -100.0)
    losses = build_loss(LossConfig())(outputs, assignment, targets, torch.tensor(1.0))
    assert losses.total < 1e-6
    assert torch.equal(losses.total, losses.classification + losses.box_regression)


def test_losses_are_the_weighted_sums_over_levels():
    outputs, targets = random_outputs(2), targets_of(4, 3)
    assignment, count = random_assignment(targets), torch.tensor(7.0)
    criterion = DetectionLoss(SigmoidFocalLoss(), SmoothL1Loss(), class_weight=1.5, box_weight=0.3)
    whole = criterion(outputs, assignment, targets, count)
    sums = criterion.sums_per_level(outputs, assignment, targets)
    level_of_anchor = torch.repeat_interleave(torch.tensor(ANCHORS_PER_LEVEL))
    for level, (class_sum, box_sum) in enumerate(zip(sums.classification, sums.box_regression, strict=True)):
        here = level_of_anchor == level
        alone = Assignment(assignment.gt_index, assignment.positive & here, assignment.negative & here)
        expected = criterion(outputs, alone, targets, count)
        assert class_sum > 0 and box_sum > 0
        assert_close((1.5 * class_sum / count, 0.3 * box_sum / count), tuple(expected))
    assert tuple(whole) == (1.5 * sum(sums.classification) / count, 0.3 * sum(sums.box_regression) / count)


def test_num_positive_divides_both_losses():
    outputs, targets = random_outputs(2), targets_of(4, 3)
    assignment = random_assignment(targets)
    one, eight = (build_loss(LossConfig())(outputs, assignment, targets, torch.tensor(n)) for n in (1.0, 8.0))
    assert one.classification > 0 and one.box_regression > 0
    assert torch.equal(one.classification / 8, eight.classification)
    assert torch.equal(one.box_regression / 8, eight.box_regression)


def test_class_loss_does_not_train_boxes_through_the_iou():
    """Otherwise a network could lower its class loss by moving boxes away from their objects."""

    class SumOfIoUs:
        needs_iou, has_background_logit = True, False

        def __call__(self, logits, labels, valid, iou):
            return iou.sum() + logits.sum()

    outputs, targets = random_outputs(2), targets_of(4, 3)
    outputs = outputs._replace(box_deltas=[level.detach().requires_grad_() for level in outputs.box_deltas])
    criterion = DetectionLoss(SumOfIoUs(), SmoothL1Loss(), box_weight=0.0)
    criterion(outputs, random_assignment(targets), targets, torch.tensor(1.0)).total.backward()
    assert not any(level.grad.any() for level in outputs.box_deltas)


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
# The hinge loss is excluded because its gradient is 0 beyond the margin.
@pytest.mark.parametrize("class_loss", [cfg for cfg in CLASS_LOSSES if cfg != HingeConfig()])
def test_only_valid_anchors_get_a_gradient(class_loss, box_loss):
    outputs, targets = random_outputs(2), targets_of(4, 0)
    assignment = random_assignment(targets)
    criterion = build_loss(LossConfig(classification=class_loss, box=box_loss))
    criterion(outputs, assignment, targets, torch.tensor(1.0)).total.backward()
    by_class = torch.cat([level.grad for level in outputs.class_logits], 1).abs().sum(-1) > 0
    by_box = torch.cat([level.grad for level in outputs.box_deltas], 1).abs().sum(-1) > 0
    assert torch.equal(by_class, assignment.positive | assignment.negative)
    assert torch.equal(by_box, assignment.positive)
    assert not by_class.all() and not by_box[1].any()


@pytest.mark.parametrize("box_loss", [*BOX_LOSSES, SmoothL1Config(beta=0.0)])
def test_images_without_objects_train_only_background(box_loss):
    outputs, targets = random_outputs(2), targets_of(0, 0)
    assignment = assign(as_grid(outputs.anchors), targets)
    losses = build_loss(LossConfig(box=box_loss))(outputs, assignment, targets, torch.tensor(1.0))
    losses.total.backward()
    assert losses.box_regression == 0 and losses.classification > 0
    assert all((level.grad > 0).all() for level in outputs.class_logits)  # gradient descent lowers every score
    assert all((level.grad == 0).all() for level in outputs.box_deltas)


def test_low_precision_outputs_give_a_float32_loss():
    targets = targets_of(4, 3)
    assignment = random_assignment(targets)
    low = random_outputs(2, dtype=torch.bfloat16)
    same = HeadOutputs([x.float() for x in low.class_logits], [x.float() for x in low.box_deltas], low.anchors)
    criterion, count = build_loss(LossConfig()), torch.tensor(3.0)
    losses = criterion(low, assignment, targets, count)
    assert losses.total.dtype == torch.float32
    # The table of 16-bit values is computed in float64, so it may differ from float32 in the last bit.
    assert_close(tuple(losses), tuple(criterion(same, assignment, targets, count)), rtol=1e-6, atol=0)
    losses.total.backward()
    assert low.class_logits[0].grad.dtype == torch.bfloat16


@pytest.mark.parametrize("alpha", [None, 0.75, (0.1, 0.3, 0.5, 0.7, 0.9)])
def test_gamma_zero_is_cross_entropy(alpha):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, NUM_CLASSES, generator=generator, dtype=torch.float64) * 4
    labels, valid = torch.arange(200) % (NUM_CLASSES + 1), torch.arange(200) % 7 > 0

    def result(cfg):
        return value_and_gradient(build_class_loss(cfg), logits, labels, valid)

    def torchs(x):
        targets = F.one_hot(labels, NUM_CLASSES + 1)[:, :-1].double()
        target_weight = torch.tensor(1.0 if alpha is None else alpha, dtype=torch.float64)
        weight = torch.where(targets > 0, target_weight, target_weight if alpha is None else 1 - target_weight)
        return F.binary_cross_entropy_with_logits(x, targets, weight, reduction="none")[valid].sum()

    focal, cross_entropy = result(FocalConfig(alpha=alpha, gamma=0.0)), result(CrossEntropyConfig(alpha=alpha))
    assert torch.equal(focal[0], cross_entropy[0]) and torch.equal(focal[1], cross_entropy[1])
    assert_close(focal, value_and_gradient(torchs, logits), rtol=1e-12, atol=1e-14)
    assert_close(focal[1][~valid], torch.zeros_like(focal[1][~valid]))


@pytest.mark.parametrize("loss", [QualityFocalLoss(), VarifocalLoss()])
def test_quality_losses_get_the_iou_of_the_decoded_box(loss):
    outputs, targets = random_outputs(2), targets_of(4, 3)
    assignment, counts = random_assignment(targets), torch.tensor(1.0)
    decoded = decode(torch.cat(outputs.box_deltas, 1), torch.cat(outputs.anchors))
    iou = torch.stack(
        [
            torchvision.ops.box_iou(decoded_boxes, boxes).gather(1, rows[:, None])[:, 0]
            for decoded_boxes, boxes, rows in zip(decoded, targets.boxes, assignment.gt_index, strict=True)
        ]
    )
    assert ((iou > 0.1) & assignment.positive).any()
    labels = torch.where(assignment.positive, targets.labels.gather(1, assignment.gt_index), NUM_CLASSES)
    valid = assignment.positive | assignment.negative
    expected = loss(torch.cat(outputs.class_logits, 1), labels, valid, iou)
    losses = DetectionLoss(loss, SmoothL1Loss())(outputs, assignment, targets, counts)
    assert_close(losses.classification, expected, rtol=1e-5, atol=0)
    # The class loss has no gradient with respect to the boxes.
    assert torch.autograd.grad(losses.classification, outputs.box_deltas, allow_unused=True) == (None,) * 3


@pytest.mark.parametrize(
    "cfg",
    [LossConfig(box=box) for box in BOX_LOSSES]
    + [
        LossConfig(classification=class_loss)
        for class_loss in (*CLASS_LOSSES, SoftmaxFocalConfig(), SoftmaxFocalConfig(alpha=0.25))
    ],
)
def test_losses_do_not_wait_for_the_device(cfg, host_reads):
    num_logits = NUM_CLASSES + cfg.classification.has_background_logit
    outputs, targets = random_outputs(2, num_logits), targets_of(4, 0)
    criterion = build_loss(cfg)
    with host_reads() as reads:
        assignment = assign(as_grid(outputs.anchors), targets)
        num_positive = assignment.positive.sum().clamp(min=1).float()
        criterion(outputs, assignment, targets, num_positive).total.backward()
    assert reads == []
    assert outputs.class_logits[0].grad is not None
