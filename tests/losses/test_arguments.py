"""Arguments that the losses reject, in Python as well as in a config."""

import math

import numpy as np
import pytest
import torch

from retinanet.losses.box_losses import SmoothL1Loss
from retinanet.losses.margin import FocalMargin, FocalStarMargin, HingeMargin
from retinanet.losses.quality import QualityFocalLoss, VarifocalLoss
from retinanet.losses.sigmoid import SigmoidFocalLoss, SigmoidMarginLoss
from retinanet.losses.softmax_focal import SoftmaxFocalLoss

AT_LEAST_0 = "expected a finite number of at least 0"


@pytest.mark.parametrize(
    ("build", "name", "wrong", "expected"),
    [
        (SigmoidFocalLoss, "gamma", -2.0, AT_LEAST_0),
        (SoftmaxFocalLoss, "gamma", -2.0, AT_LEAST_0),
        (FocalMargin, "gamma", math.nan, AT_LEAST_0),
        (FocalMargin, "gamma", math.inf, AT_LEAST_0),
        (FocalMargin, "gamma", True, AT_LEAST_0),
        (FocalMargin, "gamma", "2", AT_LEAST_0),
        (FocalStarMargin, "gamma", 0, "expected a finite number above 0"),
        (FocalStarMargin, "beta", math.inf, "expected a finite number"),
        (HingeMargin, "margin", 1.5, r"expected a number in 0\.\.1"),
        (QualityFocalLoss, "beta", -1, AT_LEAST_0),
        (VarifocalLoss, "alpha", -1, AT_LEAST_0),
        (VarifocalLoss, "gamma", -1, AT_LEAST_0),
        (SmoothL1Loss, "beta", -0.1, AT_LEAST_0),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_number_outside_its_range_is_rejected(build, name, wrong, expected):
    arguments = {"gamma": 2.0, "beta": 1.0} if build is FocalStarMargin else {}
    with pytest.raises(ValueError, match=f"^{name}: found {wrong!r}, {expected}$"):
        build(**{**arguments, name: wrong})


@pytest.mark.parametrize("build", [SigmoidFocalLoss, SoftmaxFocalLoss], ids=lambda build: build.__name__)
@pytest.mark.parametrize("wrong", [-1, 1.5, math.nan, "0.25", True, [], [0.5, -1.0], [0.5, None], [[0.5]]], ids=str)
def test_alpha_outside_its_range_is_rejected(build, wrong):
    """In torchvision, alpha=-1 means no weighting; here it would mean the weights -1 and 2."""
    with pytest.raises(ValueError, match=r"^alpha: found .*, expected a number in 0\.\.1, one such .* None for no"):
        build(alpha=wrong)


@pytest.mark.parametrize("alpha", [None, 0, 1, 0.25, [0.2, 0.0, 1.0], (0.5, 0.5, 0.5), np.float32(0.25)], ids=str)
def test_alpha_in_its_range_is_accepted(alpha):
    logits, labels, valid = torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), torch.ones(4, dtype=torch.bool)
    assert SigmoidMarginLoss(FocalMargin(2.0), alpha=alpha)(logits, labels, valid) > 0


def test_softmax_of_a_single_logit_is_rejected():
    """The loss would always be 0."""
    with pytest.raises(ValueError, match=r"^logits: found shape \(5, 1\), expected \(\.\.\., K \+ 1\)"):
        SoftmaxFocalLoss()(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool))
