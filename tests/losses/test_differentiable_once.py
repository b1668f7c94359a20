"""Differentiating a gradient of one of the detector's class losses raises an error instead of giving zero."""

import pytest
import torch
from torch.testing import assert_close

from retinanet.losses.quality import VarifocalLoss
from retinanet.losses.sigmoid import SigmoidFocalLoss
from retinanet.losses.softmax_focal import SoftmaxFocalLoss

LABELS, VALID, IOU = torch.tensor([0, 1, 2, 0, 1]), torch.ones(5, dtype=torch.bool), torch.full((5,), 0.7)
LOSSES = {
    "SigmoidFocalLoss": lambda logits: SigmoidFocalLoss()(logits, LABELS, VALID),
    "SoftmaxFocalLoss": lambda logits: SoftmaxFocalLoss()(logits, LABELS.clamp(max=1), VALID),
    "VarifocalLoss": lambda logits: VarifocalLoss()(logits, LABELS, VALID, IOU),
}


@pytest.fixture
def logits():
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_penalty_is_an_error(name, logits):
    loss = LOSSES[name](logits)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises(RuntimeError, match=r"can be differentiated only once, so gradient penalties"):
        (loss + gradient.square().sum()).backward()


def test_hessian_is_an_error(logits):
    with pytest.raises(RuntimeError, match="can be differentiated only once"):
        torch.autograd.functional.hessian(LOSSES["SigmoidFocalLoss"], logits)


@pytest.mark.parametrize("name", LOSSES)
def test_create_graph_alone_changes_nothing(name, logits):
    """Only another term of the sum, which does not involve the loss, is differentiated twice."""
    (expected,) = torch.autograd.grad(LOSSES[name](logits), logits)
    penalty_gradient = 3 * logits.detach() ** 2  # gradient of the sum of cubes
    total = LOSSES[name](logits) + logits.pow(3).sum()
    (gradient,) = torch.autograd.grad(total, logits, create_graph=True)
    assert_close(gradient, expected + penalty_gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_loss_has_the_same_value_and_gradient(name, logits):
    compiled = torch.compile(LOSSES[name], backend="aot_eager")
    expected = LOSSES[name](logits)
    result = compiled(logits)
    assert_close(result, expected)
    assert_close(torch.autograd.grad(result, logits), torch.autograd.grad(expected, logits))
