"""The fast values and derivatives of the focal loss equal those of the differentiable formulas."""

import math

import pytest
import torch
from torch.testing import assert_close

from retinanet.losses.focal_formulas import (
    binary_focal_derivatives,
    binary_focal_terms,
    binary_focal_values,
    softmax_focal_gradient,
    softmax_focal_terms,
    softmax_focal_values,
)
from tests.helpers.gradients import value_and_gradient

GAMMAS = [0.1, 0.5, 1, 1.5, 2, 5]
LABELS = [0.0, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-9, 1.0]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_binary_values_and_derivatives_match_autograd(gamma):
    logits = torch.tensor([-700.0, -40.0, -3.0, -0.1, 0.0, 0.1, 3.0, 40.0, 700.0], dtype=torch.float64)
    logits, labels = torch.cartesian_prod(logits, torch.tensor(LABELS, dtype=torch.float64)).unbind(1)
    expected = value_and_gradient(lambda x: binary_focal_terms(x, labels, gamma), logits)
    result = binary_focal_values(logits, labels, gamma), binary_focal_derivatives(logits, labels, gamma)
    assert_close(result, expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_values_and_gradient_match_autograd(gamma):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, 2, generator=random, dtype=torch.float64) * 10
    labels = torch.randn(200, 4, 2, generator=random, dtype=torch.float64).mul(20).softmax(1)
    labels[:20] = torch.eye(4, dtype=torch.float64).repeat(5, 1)[..., None]
    scale = torch.rand(200, 1, 2, generator=random, dtype=torch.float64)
    for part in (slice(None), slice(1)):  # one position is computed over the last dimension
        x, y, s = logits[..., part], labels[..., part], scale[..., part]
        terms, gradient = value_and_gradient(lambda x, y=y, s=s: softmax_focal_terms(x, y, gamma) * s, x)
        assert_close(softmax_focal_values(x, y, gamma) * s, terms, rtol=1e-9, atol=1e-15)
        assert_close(softmax_focal_gradient(x, y, gamma, s), gradient, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_derivatives_are_finite_next_to_the_label(gamma):
    # The 2,000 nearest floats around y = p, where |y - p|^(gamma - 1) grows without bound, and y = p itself.
    labels = torch.sigmoid(torch.tensor([-30.0, -3.0, 0.0, 3.0, 8.0]))[:, None]
    nearest = (labels.view(torch.int32) + torch.arange(-1000, 1000, dtype=torch.int32)).view(torch.float32)
    logits = torch.logit(nearest)
    derivatives = binary_focal_derivatives(logits, labels.expand_as(logits), gamma)
    assert derivatives.isfinite().all() and (derivatives != 0).any()
    rows = torch.stack([logits.flatten(), torch.zeros(logits.numel())], 1)[..., None]
    both = torch.stack([labels.expand_as(logits).flatten(), 1 - labels.expand_as(logits).flatten()], 1)[..., None]
    assert softmax_focal_gradient(rows, both, gamma, torch.ones(1)).isfinite().all()


def test_infinite_logits():
    # A certain and correct prediction has no loss; a certain and wrong one has an infinite loss, with derivative -1.
    logits, labels = torch.tensor([-math.inf, math.inf, -math.inf, math.inf]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert binary_focal_values(logits, labels, 2.0).tolist() == [0, 0, math.inf, math.inf]
    assert binary_focal_derivatives(logits, labels, 2.0).tolist() == [0, 0, -1, 1]
    rows, one_hot = torch.tensor([[[-math.inf], [3.0], [3.0]]]), torch.tensor([[[0.0], [1.0], [0.0]]])
    value, gradient = value_and_gradient(lambda x: softmax_focal_terms(x[:, 1:], one_hot[:, 1:], 2.0), rows)
    assert_close(softmax_focal_values(rows, one_hot, 2.0)[:, 1:], value)
    assert_close(softmax_focal_gradient(rows, one_hot, 2.0, torch.ones(1)), gradient)


def test_nan_logits_give_nan():
    logits, labels = torch.full((1, 2, 1), math.nan), torch.tensor([[[0.0], [1.0]]])
    for compute in (binary_focal_values, binary_focal_derivatives, softmax_focal_values):
        assert compute(logits, labels, 2.0).isnan().any(), compute
    assert softmax_focal_gradient(logits, labels, 2.0, torch.ones(1)).isnan().all()
