import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from retinanet.config import FocalConfig, GIoUConfig, LossConfig, SmoothL1Config, SoftmaxFocalConfig
from retinanet.detection.assignment import Assignment, assign
from retinanet.detection.boxes import decode, encode
from retinanet.detection.focal_loss import SigmoidFocal
from retinanet.detection.losses import DetectionLoss, GIoU, SmoothL1, build_loss
from retinanet.structures import Predictions, Targets

NUM_CLASSES = 5
ANCHORS_PER_LEVEL = (40, 12, 3)


def random_boxes(count, seed, smallest=4.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([corner, corner + smallest + torch.rand(count, 2, generator=generator) * 40], dim=1)


def random_predictions(batch, num_classes=NUM_CLASSES, seed=0, dtype=torch.float32):
    """Leaves that want a gradient, over three levels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(count, values):
        return torch.randn(batch, count, values, generator=generator).to(dtype).requires_grad_()

    return Predictions(
        class_logits=[normal(count, num_classes) for count in ANCHORS_PER_LEVEL],
        box_deltas=[normal(count, 4) for count in ANCHORS_PER_LEVEL],
        anchors=list(random_boxes(sum(ANCHORS_PER_LEVEL), seed + 1).split(ANCHORS_PER_LEVEL)),
    )


def as_grid(anchors):
    """The anchors of all levels, any boxes, as those of one cell."""
    return [torch.cat(anchors).view(1, 1, -1, 4)]


def targets_of(*counts, num_rows=8, num_classes=NUM_CLASSES):
    """Images with so many objects each, then padding."""
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
    """Each anchor of each image positive for one of its objects, negative or ignored, by lot."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(targets.labels), sum(ANCHORS_PER_LEVEL))
    num_objects = targets.is_object.sum(1, keepdim=True)
    gt_index = (torch.rand(shape, generator=generator) * num_objects).long()
    lot = torch.rand(shape, generator=generator)
    positive = (lot < 0.2) & (num_objects > 0)
    return Assignment(gt_index, positive, negative=(lot < 0.8) & ~positive)


def value_and_gradient(loss, logits):
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient


def test_smooth_l1_by_hand():
    anchors = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    deltas = torch.tensor([[[0.05, -0.2, 0.5, 0.0]]])  # the truth is the anchor: all zero
    # below beta: 0.5 * x^2 / beta; from there on: |x| - beta / 2
    expected = 0.5 * 0.05**2 / 0.1 + (0.2 - 0.05) + (0.5 - 0.05) + 0
    assert_close(SmoothL1(beta=0.1)(deltas, anchors, anchors), torch.tensor([[expected]]))
    assert_close(SmoothL1(beta=0.0)(deltas, anchors, anchors), torch.tensor([[0.75]]))


def test_beta_zero_is_l1():
    deltas, boxes, anchors = torch.randn(50, 4), random_boxes(50, 0), random_boxes(50, 1)
    truth = encode(boxes, anchors)
    value, gradient = value_and_gradient(lambda x: SmoothL1(beta=0.0)(x, boxes, anchors), deltas)
    assert_close(value, (deltas - truth).abs().sum(1))
    assert torch.equal(gradient, (deltas - truth).sign())


def test_giou_by_hand():
    anchors = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(1, 3, 4)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 2.0, 1.0]]])
    # the same: 0; apart, a hull of 3 around a union of 2: 1 - (0 - 1 / 3); half covered, the hull is the union: 1 / 2
    expected = torch.tensor([[0.0, 4 / 3, 0.5]])
    assert_close(GIoU()(torch.zeros(1, 3, 4), boxes, anchors), expected, atol=1e-6, rtol=1e-6)


def test_giou_is_that_of_torchvisions_boxes():
    deltas, boxes, anchors = torch.randn(50, 4), random_boxes(50, 0), random_boxes(50, 1)
    decoded = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0)).decode_single(deltas, anchors)
    expected = 1 - torchvision.ops.generalized_box_iou(decoded, boxes).diagonal()
    assert_close(GIoU()(deltas, boxes, anchors), expected, rtol=1e-4, atol=1e-5)


def detection_loss_slowly(predictions, assignment, targets, num_positive, *, box_loss, class_weight, box_weight):
    """All levels as one, only the anchors that count, image by image."""
    logits, deltas = torch.cat(predictions.class_logits, 1), torch.cat(predictions.box_deltas, 1)
    anchors = torch.cat(predictions.anchors)
    classification = box_regression = torch.zeros(())
    for image in range(len(logits)):
        positive, negative = assignment.positive[image], assignment.negative[image]
        rows = assignment.gt_index[image][positive]
        wanted = torch.zeros_like(logits[image])
        wanted[positive] = F.one_hot(targets.labels[image][rows], logits.shape[-1]).float()
        counted = positive | negative
        classification = classification + torchvision.ops.sigmoid_focal_loss(
            logits[image][counted], wanted[counted], alpha=0.25, gamma=2.0, reduction="sum"
        )
        boxes, mine = targets.boxes[image][rows], anchors[positive]
        if box_loss == "giou":
            decoded = decode(deltas[image][positive], mine)
            loss = torchvision.ops.generalized_box_iou_loss(decoded, boxes, reduction="sum")
        else:
            loss = F.smooth_l1_loss(deltas[image][positive], encode(boxes, mine), beta=0.1, reduction="sum")
        box_regression = box_regression + loss
    return class_weight * classification / num_positive, box_weight * box_regression / num_positive


@pytest.mark.parametrize("num_classes", [1, NUM_CLASSES])
@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_detection_loss_is_that_of_a_loop_over_images(box_loss, num_classes):
    predictions = random_predictions(3, num_classes)
    targets = targets_of(5, 0, 8, num_classes=num_classes)
    assignment = random_assignment(targets)
    num_positive = assignment.positive.sum().float()
    assert num_positive > 10
    leaves = [*predictions.class_logits, *predictions.box_deltas]

    box = {"smooth_l1": SmoothL1(beta=0.1), "giou": GIoU()}[box_loss]
    criterion = DetectionLoss(SigmoidFocal(), box, class_weight=1.5, box_weight=0.5)
    losses = criterion(predictions, assignment, targets, num_positive)
    gradients = torch.autograd.grad(losses.total, leaves)
    expected = detection_loss_slowly(
        predictions, assignment, targets, num_positive, box_loss=box_loss, class_weight=1.5, box_weight=0.5
    )
    assert_close(tuple(losses), expected, rtol=1e-5, atol=1e-5)
    assert_close(losses.total, sum(expected), rtol=1e-5, atol=1e-5)
    assert_close(gradients, torch.autograd.grad(sum(expected), leaves), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25, (0.1, 0.2, 0.3, 0.4, 0.5)])
def test_class_loss_of_a_softmax_is_that_of_a_loop_over_images(alpha):
    predictions, targets = random_predictions(3, NUM_CLASSES + 1), targets_of(5, 0, 8)
    assignment = random_assignment(targets)
    criterion = build_loss(LossConfig(classification=SoftmaxFocalConfig(alpha=alpha, gamma=1.0)))
    losses = criterion(predictions, assignment, targets, torch.tensor(4.0))
    weights = {None: [1.0] * 6, 0.25: [0.25] * 5 + [0.75]}.get(alpha, [0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
    logits = torch.cat(predictions.class_logits, 1)
    expected = 0.0
    for image, anchor in torch.nonzero(assignment.positive | assignment.negative).tolist():
        is_object = assignment.positive[image, anchor]
        label = targets.labels[image, assignment.gt_index[image, anchor]] if is_object else NUM_CLASSES
        p = logits[image, anchor].softmax(0)[label]
        expected = expected - weights[label] * (1 - p) * p.log() / 4
    assert_close(losses.classification, expected, rtol=1e-5, atol=1e-5)
    leaves = predictions.class_logits
    gradients = torch.autograd.grad(losses.classification, leaves)
    assert_close(gradients, torch.autograd.grad(expected, leaves), rtol=1e-4, atol=1e-6)


def test_detection_loss_in_the_right_order_of_levels():
    # One positive anchor, on the last level, whose box is met exactly: nothing of the others may be looked at.
    predictions = random_predictions(1)
    targets = targets_of(1)
    last = sum(ANCHORS_PER_LEVEL) - 1
    positive = torch.arange(last + 1)[None] == last
    assignment = Assignment(torch.zeros_like(positive, dtype=torch.int64), positive, torch.zeros_like(positive))
    predictions.box_deltas[-1].data[0, -1] = encode(targets.boxes[0, 0], predictions.anchors[-1][-1])
    predictions.class_logits[-1].data[0, -1] = torch.where(
        torch.arange(NUM_CLASSES) == targets.labels[0, 0], 100.0, -100.0
    )
    losses = build_loss(LossConfig())(predictions, assignment, targets, torch.tensor(1.0))
    assert losses.total < 1e-6
    assert torch.equal(losses.total, losses.classification + losses.box_regression)


def test_losses_are_the_sums_of_their_levels():
    predictions, targets = random_predictions(2), targets_of(4, 3)
    assignment, count = random_assignment(targets), torch.tensor(7.0)
    criterion = DetectionLoss(SigmoidFocal(), SmoothL1(), class_weight=1.5, box_weight=0.3)
    whole = criterion(predictions, assignment, targets, count)
    sums = criterion.sums_per_level(predictions, assignment, targets)
    level_of_anchor = torch.repeat_interleave(torch.tensor(ANCHORS_PER_LEVEL))
    for level, (class_sum, box_sum) in enumerate(zip(*sums, strict=True)):
        here = level_of_anchor == level
        alone = Assignment(assignment.gt_index, assignment.positive & here, assignment.negative & here)
        expected = criterion(predictions, alone, targets, count)
        assert class_sum > 0 and box_sum > 0
        assert_close((1.5 * class_sum / count, 0.3 * box_sum / count), tuple(expected))
    assert tuple(whole) == (1.5 * sum(sums.classification) / count, 0.3 * sum(sums.box_regression) / count)


def test_normaliser_divides_both_losses():
    predictions, targets = random_predictions(2), targets_of(4, 3)
    assignment = random_assignment(targets)
    one, eight = (build_loss(LossConfig())(predictions, assignment, targets, torch.tensor(n)) for n in (1.0, 8.0))
    assert one.classification > 0 and one.box_regression > 0
    assert torch.equal(one.classification / 8, eight.classification)
    assert torch.equal(one.box_regression / 8, eight.box_regression)


@pytest.mark.parametrize("box_loss", [SmoothL1Config(), GIoUConfig()])
def test_only_the_anchors_that_count_get_a_gradient(box_loss):
    predictions, targets = random_predictions(2), targets_of(4, 0)
    assignment = random_assignment(targets)
    build_loss(LossConfig(box=box_loss))(predictions, assignment, targets, torch.tensor(1.0)).total.backward()
    by_class = torch.cat([level.grad for level in predictions.class_logits], 1).abs().sum(-1) > 0
    by_box = torch.cat([level.grad for level in predictions.box_deltas], 1).abs().sum(-1) > 0
    assert torch.equal(by_class, assignment.positive | assignment.negative)
    assert torch.equal(by_box, assignment.positive)
    assert not by_class.all() and not by_box[1].any()


@pytest.mark.parametrize("box_loss", [SmoothL1Config(), SmoothL1Config(beta=0.0), GIoUConfig()])
def test_images_without_objects_teach_background_alone(box_loss):
    predictions, targets = random_predictions(2), targets_of(0, 0)
    assignment = assign(as_grid(predictions.anchors), targets)
    losses = build_loss(LossConfig(box=box_loss))(predictions, assignment, targets, torch.tensor(1.0))
    losses.total.backward()
    assert losses.box_regression == 0 and losses.classification > 0
    assert all((level.grad > 0).all() for level in predictions.class_logits)  # every score goes down
    assert all((level.grad == 0).all() for level in predictions.box_deltas)


def test_low_precision_predictions_give_a_float32_loss():
    targets = targets_of(4, 3)
    assignment = random_assignment(targets)
    low = random_predictions(2, dtype=torch.bfloat16)
    same = Predictions([x.float() for x in low.class_logits], [x.float() for x in low.box_deltas], low.anchors)
    criterion, count = build_loss(LossConfig()), torch.tensor(3.0)
    losses = criterion(low, assignment, targets, count)
    assert losses.total.dtype == torch.float32
    assert tuple(losses) == tuple(criterion(same, assignment, targets, count))
    losses.total.backward()
    assert low.class_logits[0].grad.dtype == torch.bfloat16


def test_config_decides_the_loss():
    predictions, targets = random_predictions(1), targets_of(5)
    assignment, count = random_assignment(targets), torch.tensor(2.0)
    cfg = LossConfig(
        classification=FocalConfig(alpha=0.6, gamma=0.5), box=SmoothL1Config(beta=0.7), class_weight=2.0, box_weight=3.0
    )
    by_hand = DetectionLoss(SigmoidFocal(alpha=0.6, gamma=0.5), SmoothL1(beta=0.7), class_weight=2.0, box_weight=3.0)(
        predictions, assignment, targets, count
    )
    assert tuple(build_loss(cfg)(predictions, assignment, targets, count)) == tuple(by_hand)
    default = build_loss(LossConfig())(predictions, assignment, targets, count)
    assert default.classification != by_hand.classification and default.box_regression != by_hand.box_regression


@pytest.mark.parametrize(
    "cfg",
    [
        LossConfig(),
        LossConfig(box=GIoUConfig()),
        LossConfig(classification=SoftmaxFocalConfig()),
        LossConfig(classification=SoftmaxFocalConfig(alpha=0.25)),
    ],
)
def test_the_host_reads_nothing(cfg, host_reads):
    predictions, targets = random_predictions(2, NUM_CLASSES + 1), targets_of(4, 0)
    criterion = build_loss(cfg)
    with host_reads() as reads:
        assignment = assign(as_grid(predictions.anchors), targets)
        num_positive = assignment.positive.sum().clamp(min=1).float()
        criterion(predictions, assignment, targets, num_positive).total.backward()
    assert reads == []
    assert predictions.class_logits[0].grad is not None
