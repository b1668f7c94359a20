import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.detection.assignment import Assignment
from retinanet.losses.boxes import SmoothL1
from retinanet.losses.detection import DetectionLoss
from retinanet.losses.focal import SigmoidFocal
from retinanet.losses.hard_examples import HardExamples
from retinanet.structures import HeadOutputs, Targets

LEVELS = (60, 12, 8)
ANCHORS, CLASSES = sum(LEVELS), 3


def scene(seed, *, images=2, positive=0.2, side=40.0):
    """Predictions, labels (K for background), and which anchors count. The smaller the side, the more they overlap."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(ANCHORS, 2, generator=generator) * side
    anchors = torch.cat([corner, corner + 8 + torch.rand(ANCHORS, 2, generator=generator) * 16], dim=1)
    logits = torch.randn(images, ANCHORS, CLASSES, generator=generator) * 3
    lot = torch.rand(images, ANCHORS, generator=generator)
    labels = torch.where(lot < positive, torch.randint(CLASSES, lot.shape, generator=generator), CLASSES)
    predictions = HeadOutputs(
        class_logits=[level.requires_grad_() for level in logits.split(LEVELS, dim=1)],
        box_deltas=[torch.zeros(images, count, 4, requires_grad=True) for count in LEVELS],
        anchors=[level.view(1, 1, -1, 4) for level in anchors.split(LEVELS)],
    )
    return predictions, labels, torch.rand(images, ANCHORS, generator=generator) < 0.8


def overlap_of(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slowly(predictions, labels, counted, *, keep, nms_iou, one_to_three):
    """Image by image and anchor by anchor: torch's cross entropy, a list of those that are left, and the limits."""
    logits = torch.cat(predictions.class_logits, 1)
    wanted = F.one_hot(labels, CLASSES + 1)[..., :-1].double()
    losses = F.binary_cross_entropy_with_logits(logits.double(), wanted, reduction="none").sum(-1)
    anchors = torch.cat([level.view(-1, 4) for level in predictions.anchors]).double().tolist()
    chosen = torch.zeros_like(counted)
    for image in range(len(labels)):

        def hardest(candidates, most, image=image):
            left = []
            for i in losses[image].argsort(descending=True).tolist():
                apart = nms_iou is None or all(overlap_of(anchors[i], anchors[j]) <= nms_iou for j in left)
                if candidates[i] and apart:
                    left.append(i)
            return left[:most]

        is_object = labels[image] < CLASSES
        if one_to_three:
            left = hardest(counted[image] & is_object, max(1, keep // 4))
            left += hardest(counted[image] & ~is_object, min(3 * len(left), keep - len(left)))
        else:
            left = hardest(counted[image], keep)
        chosen[image, left] = True
    return chosen


@settings(deadline=None, derandomize=True)  # losses that are equal to rounding may stand either way round
@given(
    seed=st.integers(0, 10_000),
    keep=st.sampled_from([1, 2, 3, 5, 8, 40, 1000]),
    nms_iou=st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
    one_to_three=st.booleans(),
    positive=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    side=st.sampled_from([0.0, 10.0, 100.0]),
)
def test_chosen_as_by_brute_force(seed, keep, nms_iou, one_to_three, positive, side):
    predictions, labels, counted = scene(seed, positive=positive, side=side)
    rule = {"keep": keep, "nms_iou": nms_iou, "one_to_three": one_to_three}
    chosen = HardExamples(**rule)(predictions, labels, counted)
    assert torch.equal(chosen, slowly(predictions, labels, counted, **rule))


def by_hand(logits, labels, boxes, **rule):
    predictions = HeadOutputs([torch.tensor([[[x] for x in logits]])], [], [torch.tensor(boxes).view(1, 1, -1, 4)])
    counted = torch.ones(1, len(labels), dtype=torch.bool)
    return HardExamples(**rule)(predictions, torch.tensor([labels]), counted)[0].nonzero().flatten().tolist()


def test_the_harder_of_two_that_overlap():
    # Background all: the higher the logit, the harder. The first two overlap by 8 / 10.
    boxes = [[0.0, 0, 9, 10], [0, 0, 10, 9], [50, 0, 60, 10], [90, 0, 99, 10]]
    logits, labels = [1.0, 3.0, 2.0, -4.0], [1, 1, 1, 1]
    assert by_hand(logits, labels, boxes, keep=3, nms_iou=0.7) == [1, 2, 3]
    assert by_hand(logits, labels, boxes, keep=3, nms_iou=0.9) == [0, 1, 2]
    assert by_hand(logits, labels, boxes, keep=3, nms_iou=None) == [0, 1, 2]


def test_three_negatives_for_a_positive():
    boxes = [[20.0 * i, 0, 20 * i + 10, 10] for i in range(8)]
    logits, labels = [5.0, 7, 6, 4, 3, 2, -1, 1], [1, 1, 1, 1, 1, 1, 0, 0]
    # The object with logit -1 is the harder one; of negatives, those with the highest logits.
    assert by_hand(logits, labels, boxes, keep=4, one_to_three=True) == [0, 1, 2, 6]
    assert by_hand(logits, labels, boxes, keep=8, one_to_three=True) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert by_hand(logits, labels, boxes, keep=2, one_to_three=True) == [1, 6]
    assert by_hand(logits, labels, boxes, keep=4) == [0, 1, 2, 3]
    assert by_hand(logits, [1] * 8, boxes, keep=4, one_to_three=True) == []


def detection_loss(predictions, labels, counted, hard_examples):
    images = len(labels)
    targets = Targets(
        boxes=torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(images, CLASSES, 4),
        labels=torch.arange(CLASSES).expand(images, -1),
        is_object=torch.ones(images, CLASSES, dtype=torch.bool),
        is_crowd=torch.zeros(images, CLASSES, dtype=torch.bool),
    )
    is_object = labels < CLASSES
    assignment = Assignment(labels.clamp(max=CLASSES - 1), counted & is_object, counted & ~is_object)
    criterion = DetectionLoss(SigmoidFocal(alpha=None, gamma=0.0), SmoothL1(), hard_examples=hard_examples)
    return criterion(predictions, assignment, targets, torch.tensor(7.0))


def test_loss_is_the_cross_entropy_of_the_chosen():
    predictions, labels, counted = scene(3)
    rule = {"keep": 6, "nms_iou": 0.3, "one_to_three": False}
    losses = detection_loss(predictions, labels, counted, HardExamples(**rule))
    gradients = torch.autograd.grad(losses.classification, predictions.class_logits)
    chosen = slowly(predictions, labels, counted, **rule)
    wanted = F.one_hot(labels, CLASSES + 1)[..., :-1].float()
    exact = F.binary_cross_entropy_with_logits(
        torch.cat(predictions.class_logits, 1)[chosen], wanted[chosen], reduction="sum"
    )
    assert_close(losses.classification, exact / 7)
    assert_close(gradients, torch.autograd.grad(exact / 7, predictions.class_logits))
    assert torch.equal(torch.cat(gradients, 1).abs().sum(-1) > 0, chosen)
    assert losses.box_regression == detection_loss(predictions, labels, counted, None).box_regression > 0


def test_easy_objects_are_told_apart():
    # softplus(-16) = 1.1e-7 and softplus(-18) = 1.5e-8: beside a sum of 16 and 18 both would be nothing.
    own = torch.tensor([[[18.0], [16.0], [17.0]]])
    three = HeadOutputs([own], [torch.zeros(1, 3, 4)], [torch.tensor([0.0, 0.0, 8.0, 8.0]).expand(1, 1, 3, 4)])
    labels, counted = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    assert HardExamples(keep=1, nms_iou=None)(three, labels, counted).tolist() == [[False, True, False]]
    assert HardExamples(keep=2, nms_iou=None)(three, labels, counted).tolist() == [[False, True, True]]


def test_keeping_all_is_cross_entropy():
    predictions, labels, counted = scene(4)
    every = HardExamples(keep=ANCHORS, nms_iou=None)
    assert tuple(detection_loss(predictions, labels, counted, every)) == tuple(
        detection_loss(predictions, labels, counted, None)
    )


@pytest.mark.parametrize("one_to_three", [False, True])
def test_everything_ignored(one_to_three):
    predictions, labels, counted = scene(5)
    mining = HardExamples(one_to_three=one_to_three)
    losses = detection_loss(predictions, labels, torch.zeros_like(counted), mining)
    losses.total.backward()
    assert losses.total == 0
    assert all((level.grad == 0).all() for level in predictions.class_logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wild_logits(dtype):
    predictions, labels, counted = scene(6)
    wild = [(level.detach() * 1e4).to(dtype).requires_grad_() for level in predictions.class_logits]
    predictions = predictions._replace(class_logits=wild)
    losses = detection_loss(predictions, labels, counted, HardExamples(keep=8))
    losses.total.backward()
    assert losses.total.isfinite() and all(level.grad.isfinite().all() for level in wild)


def test_an_overflow_is_among_the_hardest():
    predictions, labels, counted = scene(7)
    predictions.class_logits[0].data[0, 0, 0] = torch.nan
    counted[0, 0] = True
    assert HardExamples(keep=1)(predictions, labels, counted)[0].nonzero().flatten().tolist() == [0]
    assert detection_loss(predictions, labels, counted, HardExamples(keep=1)).classification.isnan()
