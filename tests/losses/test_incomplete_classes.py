"""The class loss for images in which only some classes are completely annotated."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from retinanet.config import FocalConfig, FocalStarConfig, LossConfig, OHEMConfig
from retinanet.detection.assignment import Assignment
from retinanet.losses.build import build_loss
from retinanet.losses.detection import SCORE_ZERO, without_incomplete
from retinanet.structures import HeadOutputs, Targets
from tests.helpers.head_outputs import NUM_CLASSES, random_assignment, random_outputs, targets_of
from tests.helpers.losses import CLASS_LOSSES
from tests.helpers.steps import batch_of, step_of, tiny_model_of

ONE = torch.tensor(1.0)
CROSS_ENTROPY = LossConfig.model_validate({"classification": {"type": "cross_entropy"}})
ALL_ANCHORS = OHEMConfig(keep=1000, nms_iou=None)
# Image 0 has some complete classes, image 1 none, image 2 all.
IS_COMPLETE = torch.tensor([[True, False, True, False, False], [False] * 5, [True] * 5])


def scene(dtype=torch.float32, is_complete=IS_COMPLETE):
    """Three images; the second and third have objects."""
    targets = targets_of(5, 8, 0)
    return random_outputs(3, dtype=dtype), random_assignment(targets), targets._replace(is_complete=is_complete)


def loss_and_gradient(criterion, outputs, assignment, targets):
    loss = criterion(outputs, assignment, targets, ONE).classification
    return loss.detach(), torch.cat(torch.autograd.grad(loss, outputs.class_logits), 1)


def is_counted(outputs, assignment, targets):
    """Whether each logit contributes to the loss, computed in a loop: (B, A, K) bool."""
    counted = torch.zeros(torch.cat(outputs.class_logits, 1).shape, dtype=torch.bool)
    for image, anchor, label in torch.ones_like(counted).nonzero().tolist():
        own = assignment.positive[image, anchor] and label == targets.labels[image, assignment.gt_index[image, anchor]]
        counted[image, anchor, label] = bool(own or targets.is_complete[image, label])
    return counted


@pytest.mark.parametrize(
    ("is_complete", "gradient"),
    [
        # Anchor 0 shows an object of class 0, anchor 1 shows background, anchor 2 is ignored. All scores are 1/2, so
        # the loss of a logit is ln 2, and its derivative is -1/2 for the anchor's own class and 1/2 for others.
        ([True, True], [[-0.5, 0.5], [0.5, 0.5], [0, 0]]),
        ([True, False], [[-0.5, 0], [0.5, 0], [0, 0]]),
        ([False, True], [[-0.5, 0.5], [0, 0.5], [0, 0]]),
        ([False, False], [[-0.5, 0], [0, 0], [0, 0]]),
    ],
)
def test_loss_by_hand(is_complete, gradient):
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    boxes = torch.tensor([0.0, 0.0, 8.0, 8.0]).expand(1, 1, 3, 4)
    positive, negative = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    one = torch.ones(1, 1, dtype=torch.bool)
    targets = Targets(boxes[:, 0, :1], torch.zeros(1, 1).long(), one, ~one, is_complete=torch.tensor([is_complete]))
    outputs = HeadOutputs([logits], [torch.zeros(1, 3, 4)], [boxes])
    assignment = Assignment(torch.zeros(1, 3).long(), positive, negative)
    loss, found = loss_and_gradient(build_loss(CROSS_ENTROPY), outputs, assignment, targets)
    assert_close(found, torch.tensor([gradient]))
    assert_close(loss, torch.tensor(math.log(2) * sum(bool(value) for row in gradient for value in row)))


@pytest.mark.parametrize("cfg", CLASS_LOSSES)
def test_loss_is_the_sum_of_separate_losses_per_class(cfg):
    """For class c alone, its anchors are objects and all others background, or ignored where c is incomplete."""
    outputs, assignment, targets = scene()
    loss, gradient = loss_and_gradient(build_loss(LossConfig(classification=cfg)), outputs, assignment, targets)
    labels = targets.labels.gather(1, assignment.gt_index)
    losses, gradients = [], []
    for label in range(NUM_CLASSES):
        of_class = FocalConfig(alpha=cfg.alpha[label]) if isinstance(getattr(cfg, "alpha", None), tuple) else cfg
        own = assignment.positive & (labels == label)
        others = (assignment.positive | assignment.negative) & ~own & targets.is_complete[:, label, None]
        column = outputs._replace(class_logits=[level[..., label, None] for level in outputs.class_logits])
        alone = targets._replace(labels=torch.zeros_like(targets.labels), is_complete=None)
        criterion = build_loss(LossConfig(classification=of_class))
        found = loss_and_gradient(criterion, column, Assignment(assignment.gt_index, own, others), alone)
        losses.append(found[0])
        gradients.append(found[1])
    assert_close(loss, sum(losses), rtol=1e-5, atol=1e-5)
    assert_close(gradient, torch.cat(gradients, 2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cfg", [*CLASS_LOSSES, ALL_ANCHORS])
def test_gradient_is_zero_for_excluded_logits_and_unchanged_elsewhere(cfg, dtype):
    outputs, assignment, targets = scene(dtype)
    criterion = build_loss(LossConfig(classification=cfg))
    loss, gradient = loss_and_gradient(criterion, outputs, assignment, targets)
    complete, unmasked = loss_and_gradient(criterion, outputs, assignment, targets._replace(is_complete=None))
    counted = is_counted(outputs, assignment, targets)
    assert counted.any() and not counted.all()
    assert torch.equal(gradient, torch.where(counted, unmasked, 0))
    assert 0 < loss < complete


@pytest.mark.parametrize("cfg", [*CLASS_LOSSES, ALL_ANCHORS, OHEMConfig(keep=5)])
def test_complete_annotations_give_the_same_bits_with_and_without_a_mask(cfg):
    outputs, assignment, targets = scene(is_complete=torch.ones(3, NUM_CLASSES, dtype=torch.bool))
    criterion = build_loss(LossConfig(classification=cfg))
    masked = loss_and_gradient(criterion, outputs, assignment, targets)
    plain = loss_and_gradient(criterion, outputs, assignment, targets._replace(is_complete=None))
    assert all(torch.equal(a, b) for a, b in zip(masked, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cfg", [*CLASS_LOSSES, FocalStarConfig(gamma=0.01), FocalConfig(gamma=0.0), ALL_ANCHORS])
def test_image_without_annotations_or_complete_classes_trains_nothing(cfg, dtype):
    outputs, targets = random_outputs(2, dtype=dtype), targets_of(0, 0)
    targets = targets._replace(is_complete=torch.zeros(2, NUM_CLASSES, dtype=torch.bool))
    criterion = build_loss(LossConfig(classification=cfg))
    loss, gradient = loss_and_gradient(criterion, outputs, random_assignment(targets), targets)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("scale", [1e4, math.inf])
@pytest.mark.parametrize("cfg", CLASS_LOSSES)
def test_extreme_logits_of_incomplete_classes_have_no_effect(cfg, scale):
    outputs, assignment, targets = scene()
    criterion = build_loss(LossConfig(classification=cfg))
    expected = loss_and_gradient(criterion, outputs, assignment, targets)
    counted = is_counted(outputs, assignment, targets).split([level.shape[1] for level in outputs.class_logits], 1)
    for level, counts in zip(outputs.class_logits, counted, strict=True):
        level.data = torch.where(counts, level.data, level.data.sign() * scale)
    found = loss_and_gradient(criterion, outputs, assignment, targets)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_mining_ranks_anchors_by_the_losses_of_included_logits():
    # Class 0 is incomplete, and all anchors are background. Anchor 0 has the highest cross entropy, but only for class
    # 0. For class 1, the cross entropy of anchor 2 is higher than that of anchor 1.
    logits = torch.tensor([[[10.0, -10.0], [-10.0, -1.0], [-10.0, 1.0]]], requires_grad=True)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [20.0, 0.0, 28.0, 8.0], [40.0, 0.0, 48.0, 8.0]]).view(1, 1, 3, 4)
    nothing, negative = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    targets = Targets(boxes[:, 0, :1], torch.zeros(1, 1).long(), nothing, nothing)
    outputs = HeadOutputs([logits], [torch.zeros(1, 3, 4)], [boxes])
    criterion = build_loss(LossConfig(classification=OHEMConfig(keep=1)))
    for is_complete, hardest, loss in ((None, 0, 10.0), ([[False, True]], 2, math.log1p(math.e))):
        known = targets._replace(is_complete=None if is_complete is None else torch.tensor(is_complete))
        assignment = Assignment(torch.zeros(1, 3).long(), ~negative, negative)
        found, gradient = loss_and_gradient(criterion, outputs, assignment, known)
        assert gradient.abs().sum(-1).nonzero().tolist() == [[0, hardest]]
        assert_close(found, torch.tensor(loss), rtol=1e-4, atol=0)


def test_included_logits_are_unchanged():
    outputs, assignment, targets = scene()
    labels = torch.where(assignment.positive, targets.labels.gather(1, assignment.gt_index), NUM_CLASSES)
    masked = torch.cat(without_incomplete(outputs.class_logits, labels, targets.is_complete), 1)
    counted = is_counted(outputs, assignment, targets)
    assert torch.equal(masked[counted], torch.cat(outputs.class_logits, 1)[counted])
    assert (masked[~counted] == SCORE_ZERO).all()


def test_mask_is_applied_on_the_device():
    with FakeTensorMode():  # fails if an operation mixes devices
        labels, is_complete = torch.zeros(2, 7, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool)
        logits = [torch.empty(2, 4, 5, device="cuda"), torch.empty(2, 3, 5, device="cuda")]
        masked = without_incomplete(logits, labels.to("cuda"), is_complete.to("cuda"))
        assert [(level.device.type, level.shape) for level in masked] == [("cuda", level.shape) for level in logits]


def test_box_loss_is_unaffected():
    outputs, assignment, targets = scene()
    criterion = build_loss(LossConfig())
    masked, plain = (criterion(outputs, assignment, t, ONE) for t in (targets, targets._replace(is_complete=None)))
    assert torch.equal(masked.box_regression, plain.box_regression)


@pytest.mark.parametrize("cfg", CLASS_LOSSES)
def test_step_with_a_mask_does_not_wait_for_the_device(cfg, host_reads):
    step, batch = step_of(tiny_model_of(), loss=LossConfig(classification=cfg)), batch_of()
    batch = batch._replace(targets=batch.targets._replace(is_complete=IS_COMPLETE[:2]))
    step([batch], 1)
    with host_reads() as reads:
        step([batch], 2)
    assert reads == []
