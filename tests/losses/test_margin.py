"""Margin losses compared with the formulas in their papers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.losses.margin import FocalMargin, FocalStarMargin, HingeMargin
from tests.helpers.gradients import value_and_gradient
from tests.helpers.margin import MARGIN_LOSSES, by_definition

each_margin_loss = pytest.mark.parametrize("name", MARGIN_LOSSES)


def test_focal_by_hand():
    # p_t = 1/2 and 9/10: (1 - p_t)^2 times -ln p_t.
    z = torch.tensor([0.0, -math.log(9)])
    assert_close(FocalMargin(2.0).value(z), torch.tensor([0.25 * math.log(2), 0.01 * math.log(10 / 9)]))


def test_focal_star_by_hand():
    # gamma 2, beta 1. x_t = 0: ln(1 + e^-1) / 2; x_t = -1: ln(1 + e) / 2, with derivative sigmoid(1) in z = -x_t
    z = torch.tensor([0.0, 1.0])
    assert_close(FocalStarMargin(2.0, 1.0).value(z), torch.tensor([0.1566308, 0.6566308]))
    assert_close(FocalStarMargin(2.0, 1.0).derivative(z), torch.tensor([1 / (1 + math.e), 1 / (1 + 1 / math.e)]))


def test_hinge_by_hand():
    z = torch.tensor([math.log(0.7 / 0.3), math.log(0.3 / 0.7)])  # p_t = 0.3, and 0.7, which is beyond the margin
    assert_close(HingeMargin().value(z), torch.tensor([0.2, 0.0]))
    assert_close(HingeMargin().derivative(z), torch.tensor([0.21, 0.0]))
    assert_close(HingeMargin(margin=0.9).value(z), torch.tensor([0.6, 0.2]))


@each_margin_loss
def test_value_and_derivative_match_the_definition(name):
    z = torch.linspace(-8, 8, 200, dtype=torch.float64)  # does not contain 0, where the hinge loss has a kink
    expected, derivative = value_and_gradient(lambda z: by_definition(name, torch.sigmoid(-z)).sum(), z)
    assert_close(MARGIN_LOSSES[name].value(z).sum(), expected)
    assert_close(MARGIN_LOSSES[name].derivative(z), derivative, rtol=1e-7, atol=1e-10)


@settings(deadline=None)
@given(st.sampled_from(sorted(MARGIN_LOSSES)), st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32))
def test_margin_losses_are_non_negative_and_increasing_with_bounded_derivatives(name, first, second):
    z = torch.tensor(sorted((first, second)))
    value, derivative = MARGIN_LOSSES[name].value(z), MARGIN_LOSSES[name].derivative(z)
    assert value.isfinite().all() and derivative.isfinite().all()
    assert value[0] >= 0 and value[0] <= value[1] * (1 + 1e-6)
    assert (derivative >= 0).all() and (derivative <= 2).all()
