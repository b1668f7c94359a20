"""Box losses compared with torchvision's and with hand-computed cases."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from retinanet.detection.boxes import decode, encode
from retinanet.losses.box_losses import CIoULoss, DIoULoss, GIoULoss, SmoothL1Loss
from tests.helpers.boxes import random_boxes
from tests.helpers.gradients import value_and_gradient


def test_smooth_l1_by_hand():
    anchors = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    deltas = torch.tensor([[[0.05, -0.2, 0.5, 0.0]]])  # the target equals the anchor, so its offsets are all 0
    # below beta: 0.5 * x^2 / beta; above: |x| - beta / 2
    expected = 0.5 * 0.05**2 / 0.1 + (0.2 - 0.05) + (0.5 - 0.05) + 0
    assert_close(SmoothL1Loss(beta=0.1)(deltas, anchors, anchors), torch.tensor([[expected]]))
    assert_close(SmoothL1Loss(beta=0.0)(deltas, anchors, anchors), torch.tensor([[0.75]]))


def test_beta_zero_is_l1():
    deltas, boxes, anchors = torch.randn(50, 4), random_boxes(50, 0), random_boxes(50, 1)
    target = encode(boxes, anchors)
    value, gradient = value_and_gradient(lambda x: SmoothL1Loss(beta=0.0)(x, boxes, anchors), deltas)
    assert_close(value, (deltas - target).abs().sum(1))
    assert torch.equal(gradient, (deltas - target).sign())


IOU_LOSSES = {"giou": GIoULoss(), "diou": DIoULoss(), "ciou": CIoULoss()}
TORCHVISION = {
    "giou": torchvision.ops.generalized_box_iou_loss,
    "diou": torchvision.ops.distance_box_iou_loss,
    "ciou": torchvision.ops.complete_box_iou_loss,
}
each_iou_loss = pytest.mark.parametrize("name", IOU_LOSSES)


def test_giou_by_hand():
    anchors = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(1, 3, 4)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 2.0, 1.0]]])
    # equal: 0; disjoint, with a hull of 3 around a union of 2: 1 - (0 - 1 / 3); half covered, so hull = union: 1 / 2
    expected = torch.tensor([[0.0, 4 / 3, 0.5]])
    assert_close(GIoULoss()(torch.zeros(1, 3, 4), boxes, anchors), expected, atol=1e-6, rtol=1e-6)


def test_diou_by_hand():
    anchors = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
    # equal: 0; centres 2 apart in a hull of 3 x 1: 1 + 4 / 10; half covered, half a pixel apart in 2 x 1
    expected = torch.tensor([0.0, 1.4, 0.5 + 0.25 / 5])
    assert_close(DIoULoss()(torch.zeros(3, 4), boxes, anchors), expected, atol=1e-6, rtol=1e-6)


def test_ciou_by_hand():
    anchors = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4)
    boxes = torch.tensor([[2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
    # Both square: DIoU. Otherwise v = 4 / pi^2 (arctan 2 - arctan 1)^2, weighted by v / (1 - 1/2 + v).
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    expected = torch.tensor([1.4, 0.55 + v * v / (0.5 + v)])
    assert_close(CIoULoss()(torch.zeros(2, 4), boxes, anchors), expected, atol=1e-6, rtol=1e-6)


@each_iou_loss
def test_value_and_gradient_equal_torchvisions(name):
    generator = torch.Generator().manual_seed(0)
    deltas, boxes, anchors = torch.randn(200, 4, generator=generator) * 0.5, random_boxes(200, 0), random_boxes(200, 1)

    def torchvisions(x):
        decoded = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0)).decode_single(x, anchors)
        return TORCHVISION[name](decoded, boxes)

    value, gradient = value_and_gradient(lambda x: IOU_LOSSES[name](x, boxes, anchors), deltas)
    expected, expected_gradient = value_and_gradient(torchvisions, deltas)
    assert_close(value, expected, rtol=1e-4, atol=1e-5)
    assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-500, 500))
def test_iou_losses_are_ordered_and_invariant_to_scale_and_translation(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    deltas = (torch.randn(20, 4, generator=generator) * 0.5).double()
    boxes, anchors = random_boxes(20, seed).double(), random_boxes(20, seed + 1).double()
    values = {name: loss(deltas, boxes, anchors) for name, loss in IOU_LOSSES.items()}
    decoded = decode(deltas, anchors)
    from_iou = 1 - torchvision.ops.box_iou(decoded, boxes).diagonal()
    assert (values["giou"] >= from_iou - 1e-6).all() and (values["giou"] <= 2).all()
    assert (values["diou"] >= from_iou - 1e-6).all() and (values["diou"] <= 2).all()
    assert (values["ciou"] >= values["diou"]).all()
    for name, loss in IOU_LOSSES.items():
        assert_close(loss(deltas, boxes * scale + shift, anchors * scale + shift), values[name], rtol=1e-5, atol=1e-6)
        assert_close(loss(encode(boxes, anchors), boxes, anchors), torch.zeros(20).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["giou", "diou"])  # CIoU treats a factor as constant in the gradient
def test_gradient_matches_finite_differences(name):
    generator = torch.Generator().manual_seed(2)
    deltas = (torch.randn(10, 4, generator=generator) * 0.3).double().requires_grad_()
    boxes, anchors = random_boxes(10, 0).double(), random_boxes(10, 0).double()
    assert torch.autograd.gradcheck(lambda x: IOU_LOSSES[name](x, boxes, anchors), deltas)


@pytest.mark.parametrize("loss", [SmoothL1Loss(), *IOU_LOSSES.values()])
def test_extreme_deltas_have_a_finite_loss_and_gradient(loss):
    deltas = torch.tensor([[x, y, w, h] for x in (-1e4, 1e4) for y in (0, 1e4) for w in (-1e4, 1e4) for h in (-1e4, 0)])
    boxes, anchors = random_boxes(len(deltas), 0), random_boxes(len(deltas), 1)
    value, gradient = value_and_gradient(lambda x: loss(x, boxes, anchors), deltas)
    assert value.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("scale", [-5.0, -20.0, -40.0])
def test_tiny_box_gets_an_accurate_gradient(scale):
    # Its corners coincide in float32, and their gradients would be two huge numbers that nearly cancel.
    deltas = torch.tensor([[0.0, 0.0, scale, scale]])
    box, anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[-16.0, -16.0, 16.0, 16.0]])

    def gradient(dtype):
        return value_and_gradient(lambda d: CIoULoss()(d, box.to(dtype), anchor.to(dtype)).sum(), deltas.to(dtype))[1]

    assert_close(gradient(torch.float32).double(), gradient(torch.float64), rtol=1e-3, atol=1e-5)
    assert gradient(torch.float32)[0, 1] < -0.5


@pytest.mark.parametrize("loss", [SmoothL1Loss(), *IOU_LOSSES.values()])
def test_box_losses_accept_no_anchors(loss):
    deltas = torch.zeros(2, 0, 4, requires_grad=True)
    loss(deltas, torch.zeros(2, 0, 4), torch.zeros(0, 4)).sum().backward()
    assert deltas.grad.shape == (2, 0, 4)
