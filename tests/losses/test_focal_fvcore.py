"""fvcore's `sigmoid_focal_loss`, replaced by an adapter to `focal_loss`, gives the same results."""

import pytest
import torch
from torch.testing import assert_close

from retinanet.losses.focal import focal_loss

fvcore = pytest.importorskip("fvcore.nn", reason="fvcore is not installed")


def adapter(inputs, targets, alpha=-1, gamma=2, reduction="none"):
    alpha = None if alpha < 0 else alpha
    return focal_loss(inputs, targets, "sigmoid", alpha=alpha, gamma=gamma, reduction=reduction)


@pytest.mark.parametrize("shape", [(5,), (1, 4, 1), (4, 2), (1, 4, 4)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("alpha", [-1, 0, 0.5, 1])
def test_adapter_agrees_with_fvcore(alpha, reduction, shape):
    random = torch.Generator().manual_seed(0)
    inputs = torch.logit(torch.rand(shape, generator=random) * 0.9 + 0.05)
    targets = torch.rand(shape, generator=random).round()
    for gamma in (0, 2):
        settings = {"alpha": alpha, "gamma": gamma, "reduction": reduction}
        expected = fvcore.sigmoid_focal_loss(inputs, targets, **settings)
        assert_close(adapter(inputs, targets, **settings), expected)
        if alpha == -1 and gamma == 0:
            assert torch.equal(adapter(inputs, targets, **settings), expected)
