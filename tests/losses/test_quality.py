"""Quality-aware class losses compared with the formulas in their papers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from retinanet.losses.quality import QualityFocalLoss, VarifocalLoss
from retinanet.losses.sigmoid import SigmoidFocalLoss
from retinanet.losses.sigmoid_reference import sigmoid_loss
from tests.helpers.gradients import value_and_gradient

LOSSES = {
    "quality focal": QualityFocalLoss(),
    "quality focal, beta 0": QualityFocalLoss(beta=0.0),
    "quality focal, beta 0.5": QualityFocalLoss(beta=0.5),
    "varifocal": VarifocalLoss(),
    "varifocal, alpha 1.5": VarifocalLoss(alpha=1.5, gamma=0.5),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
SMALLEST = {torch.float32: 1e-8, torch.bfloat16: 1e-8, torch.float16: 2**-25}


def case(num_classes, *, shape=(2, 150), dtype=torch.float32):
    """Logits, labels, valid mask, and IoUs of which some are 0 and some are 1."""
    generator = torch.Generator().manual_seed(num_classes)
    logits = (torch.randn(*shape, num_classes, generator=generator) * 3 - 1).to(dtype)
    draw = torch.rand(shape, generator=generator)
    labels = torch.where(draw < 0.4, torch.randint(num_classes, shape, generator=generator), num_classes)
    iou = (torch.rand(shape, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return logits, labels, (draw < 0.3) | (draw > 0.5), iou


def by_definition(name, p, y):
    """The loss of each probability p with target y in float64, by the formula in the paper."""
    cross_entropy = -y * p.log() - (1 - y) * (1 - p).log()
    return {
        "quality focal": lambda: (y - p).abs() ** 2 * cross_entropy,
        "quality focal, beta 0": lambda: cross_entropy,
        "quality focal, beta 0.5": lambda: (y - p).abs() ** 0.5 * cross_entropy,
        "varifocal": lambda: torch.where(y > 0, y * cross_entropy, -0.75 * p**2 * (1 - p).log()),
        "varifocal, alpha 1.5": lambda: torch.where(y > 0, y * cross_entropy, -1.5 * p**0.5 * (1 - p).log()),
    }[name]()


def test_quality_focal_by_hand():
    # p = 0.5 everywhere. Target, IoU 0.8: |0.8 - 0.5|^2 ln 2; another class: 0.5^2 ln 2.
    loss = QualityFocalLoss()
    logits, valid = torch.zeros(1, 2), torch.tensor([True])
    value, gradient = value_and_gradient(lambda x: loss(x, torch.tensor([1]), valid, torch.tensor([0.8])), logits)
    assert_close(value, torch.tensor((0.09 + 0.25) * math.log(2)))
    # 2 * 0.5 * 0.25 ln 2 + 0.25 * 0.5, and -(2 * 0.3 * 0.25 ln 2 + 0.09 * 0.3)
    assert_close(gradient, torch.tensor([[0.25 * math.log(2) + 0.125, -0.15 * math.log(2) - 0.027]]))


def test_varifocal_by_hand():
    # Target, IoU 0.8: 0.8 ln 2, with derivative 0.8 (0.5 - 0.8); another class: 0.75 * 0.25 ln 2.
    loss = VarifocalLoss()
    logits, valid = torch.zeros(1, 2), torch.tensor([True])
    value, gradient = value_and_gradient(lambda x: loss(x, torch.tensor([1]), valid, torch.tensor([0.8])), logits)
    assert_close(value, torch.tensor((0.8 + 0.1875) * math.log(2)))
    assert_close(gradient[0, 1], torch.tensor(-0.24))


@each_type
@each_loss
@pytest.mark.parametrize("num_classes", [1, 20])
def test_kernel_equals_the_reference(name, num_classes, dtype):
    logits, labels, valid, iou = case(num_classes, dtype=dtype)

    def reference(x):
        return 0.3 * sigmoid_loss(
            x,
            labels,
            valid,
            target_loss=lambda x: by_definition(name, torch.sigmoid(x), iou.double()[..., None]),
            background_loss=lambda x: by_definition(name, torch.sigmoid(x), torch.zeros_like(x)),
        )

    value, gradient = value_and_gradient(lambda x: 0.3 * LOSSES[name](x, labels, valid, iou), logits)
    expected, exact = value_and_gradient(reference, logits.double())
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert_close(value, expected.float(), rtol=1e-5, atol=0)
    assert_close(gradient.double(), exact, rtol=ROUNDING[dtype], atol=10 * SMALLEST[dtype])
    assert (gradient[~valid] == 0).all()


def test_quality_focal_loss_of_perfect_boxes_is_the_focal_loss():
    logits, labels, valid, iou = case(5)
    soft = value_and_gradient(lambda x: QualityFocalLoss()(x, labels, valid, torch.ones_like(iou)), logits)
    hard = value_and_gradient(lambda x: SigmoidFocalLoss(alpha=None)(x, labels, valid), logits)
    assert_close(soft, hard, rtol=1e-5, atol=1e-6)


def test_quality_focal_with_beta_zero_is_cross_entropy_with_soft_targets():
    logits, labels, valid, iou = case(5)
    targets = F.one_hot(labels, 6)[..., :-1] * iou[..., None]
    soft = value_and_gradient(lambda x: QualityFocalLoss(beta=0.0)(x, labels, valid, iou), logits)
    torchs = value_and_gradient(
        lambda x: F.binary_cross_entropy_with_logits(x[valid], targets[valid], reduction="sum"), logits
    )
    assert_close(soft, torchs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [QualityFocalLoss(), VarifocalLoss()])
def test_boxes_that_miss_their_object_count_as_background(loss):
    logits, labels, valid, iou = case(5)
    missed = value_and_gradient(lambda x: loss(x, labels, valid, torch.zeros_like(iou)), logits)
    background = value_and_gradient(lambda x: loss(x, torch.full_like(labels, 5), valid, iou), logits)
    assert_close(missed, background, rtol=1e-5, atol=1e-6)


@each_loss
def test_gradient_is_zero_where_the_score_equals_the_iou(name):
    iou = torch.tensor([0.3, 0.5, 0.9])
    logits, labels = torch.logit(iou)[:, None], torch.zeros(3, dtype=torch.int64)
    _, gradient = value_and_gradient(lambda x: LOSSES[name](x, labels, labels == 0, iou), logits)
    # Zero up to rounding: for beta 0.5, the power is steep near 0.
    assert_close(gradient, torch.zeros(3, 1), rtol=0, atol=1e-3 if name.endswith("0.5") else 1e-6)


@each_loss
def test_gradient_matches_finite_differences(name):
    logits, labels, valid, iou = case(3, shape=(12,), dtype=torch.float64)
    iou = iou.double()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels, valid, iou), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_loss
def test_extreme_logits_have_a_finite_loss_and_gradient(name, dtype):
    logits = torch.tensor([-1e4, -100, 0, 100, 1e4], dtype=dtype)[:, None].expand(5, 2)
    labels = torch.zeros(5, dtype=torch.int64)
    for iou in (0.0, 0.5, 1.0):
        ious = torch.full((5,), iou)
        value, gradient = value_and_gradient(lambda x, q=ious: LOSSES[name](x, labels, labels == 0, q), logits)
        assert value.isfinite() and value > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_loss
def test_loss_and_gradient_are_zero_without_valid_anchors(name, dtype):
    logits, labels, valid, iou = case(4, dtype=dtype)
    loss = LOSSES[name]
    value, gradient = value_and_gradient(lambda x: loss(x, labels, torch.zeros_like(valid), iou), logits)
    assert value == 0 and (gradient == 0).all()
    value, gradient = value_and_gradient(lambda x: loss(x, labels[:, :0], valid[:, :0], iou[:, :0]), logits[:, :0])
    assert value == 0 and gradient.shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_loss
def test_loss_does_not_wait_for_the_device(name, dtype, host_reads):
    logits, labels, valid, iou = case(4, dtype=dtype)
    with host_reads() as reads:
        value_and_gradient(lambda x: LOSSES[name](x, labels, valid, iou), logits)
    assert reads == []


@pytest.mark.slow  # half a minute of compiling
def test_compiled_equals_eager():
    logits, labels, valid, iou = case(11)
    for compiled, eager in (
        (QualityFocalLoss(compile=True), QualityFocalLoss()),
        (VarifocalLoss(compile=True), VarifocalLoss()),
    ):
        result = value_and_gradient(lambda x, loss=compiled: loss(x, labels, valid, iou), logits)
        assert_close(result, value_and_gradient(lambda x, loss=eager: loss(x, labels, valid, iou), logits))


@pytest.mark.parametrize("loss", [QualityFocalLoss(), VarifocalLoss()])
def test_missing_iou_is_rejected(loss):
    logits, labels, valid, _ = case(5)
    with pytest.raises(ValueError, match="needs the IoU of each anchor's decoded box; pass iou"):
        loss(logits, labels, valid)
