"""`focal_loss` equals torch's losses bit for bit at gamma 0, and is exact at extreme logits and small errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from retinanet.losses.focal import focal_loss
from tests.helpers.focal import multi_hot
from tests.helpers.gradients import value_and_gradient

pytestmark = pytest.mark.usefixtures("small_chunks")

GAMMAS = [0, 0.1, 0.5, 1, 2, 5]
REDUCTIONS = ["mean", "sum", "none"]
SHAPES = [(37, 7), (5, 7, 11), (4, 7, 3, 5)]
WEIGHTS = torch.tensor([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 1.0])


def example(shape, dtype):
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=random) * 3).to(dtype)
    return logits, torch.randint(7, (shape[0], *shape[2:]), generator=random), torch.rand(shape, generator=random)


def assert_same_bits(result, expected):
    assert torch.equal(result[0], expected[0]) and torch.equal(result[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_zero_is_cross_entropy_bit_for_bit(shape, reduction, dtype):
    logits, targets, labels = example(shape, dtype)
    ignored = targets.clone()
    ignored.view(-1)[::5] = -100
    for given in (targets, ignored, labels.to(dtype)):
        for smoothing in (0.0, 0.1):
            for alpha in (None, WEIGHTS):
                weight = None if alpha is None else alpha.to(dtype)
                expected = value_and_gradient(
                    lambda x, t=given, w=weight, s=smoothing: F.cross_entropy(
                        x, t, w, reduction=reduction, label_smoothing=s
                    ),
                    logits,
                )
                result = value_and_gradient(
                    lambda x, t=given, a=alpha, s=smoothing: focal_loss(
                        x, t, alpha=a, gamma=0, reduction=reduction, label_smoothing=s
                    ),
                    logits,
                )
                assert_same_bits(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_zero_is_binary_cross_entropy_bit_for_bit(shape, reduction, dtype):
    logits, targets, soft = example(shape, dtype)
    hot = multi_hot(targets, 7).to(dtype)
    for given, plain in ((targets, hot), (hot, hot), (hot.long(), hot), (soft, soft.to(dtype))):
        for smoothing in (0.0, 0.1):
            labels = plain * (1 - smoothing) + smoothing / 2 if smoothing else plain
            for alpha in (None, 0.3, WEIGHTS):
                of_one = alpha.to(dtype).view(-1, *[1] * (len(shape) - 2)) if isinstance(alpha, torch.Tensor) else alpha
                weight = None if alpha is None else of_one * labels + (1 - of_one) * (1 - labels)
                expected = value_and_gradient(
                    lambda x, y=labels, w=weight: F.binary_cross_entropy_with_logits(x, y, w, reduction=reduction),
                    logits,
                )
                result = value_and_gradient(
                    lambda x, t=given, a=alpha, s=smoothing: focal_loss(
                        x, t, "sigmoid", alpha=a, gamma=0, reduction=reduction, label_smoothing=s
                    ),
                    logits,
                )
                assert_same_bits(result, expected)


def test_gamma_zero_with_ignored_targets_is_masked_binary_cross_entropy_bit_for_bit():
    logits, targets, _ = example((37, 7), torch.float32)
    targets[::5] = -100
    mask = (targets >= 0).float()[:, None]
    losses = F.binary_cross_entropy_with_logits(logits, multi_hot(targets, 7).float(), mask, reduction="none")
    assert torch.equal(focal_loss(logits, targets, "sigmoid", gamma=0, reduction="none"), losses)
    assert torch.equal(focal_loss(logits, targets, "sigmoid", gamma=0, reduction="sum"), losses.sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_half_precision_is_computed_in_float32(gamma, dtype):
    logits, targets, labels = example((37, 7), dtype)
    for mode in ("softmax", "sigmoid"):
        for given in (targets, labels):
            for reduction in REDUCTIONS:
                result = value_and_gradient(
                    lambda x, t=given, m=mode, r=reduction: focal_loss(x, t, m, gamma=gamma, reduction=r), logits
                )
                value, gradient = value_and_gradient(
                    lambda x, t=given, m=mode, r=reduction: focal_loss(x, t, m, gamma=gamma, reduction=r),
                    logits.float(),
                )
                assert result[0].dtype == torch.float32 and result[1].dtype == dtype
                assert_close(
                    result,
                    (value, gradient.to(dtype)),
                    rtol=1e-6 if result[1].dtype == value.dtype else 1e-2,
                    atol=1e-6,
                )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_is_exact_at_extreme_logits(gamma, dtype):
    extreme = [-1e4, -89.0, 0.0, 89.0, 1e4]
    logits = torch.tensor([[a, b, c] for a in extreme for b in extreme for c in extreme], dtype=dtype)
    for target in range(3):
        targets = torch.full((len(logits),), target)
        others = torch.cat([logits[:, :target], logits[:, target + 1 :]], 1).double().amax(1)
        margin = others - logits[:, target].double()
        wrong, right = margin > 1000, margin < -1000
        for given in (targets, F.one_hot(targets, 3).float()):
            value, gradient = value_and_gradient(
                lambda x, t=given: focal_loss(x, t, gamma=gamma, reduction="none"), logits
            )
            assert value.isfinite().all() and gradient.isfinite().all()
            assert_close(value[wrong].double(), margin[wrong], rtol=1e-3, atol=0)
            assert (gradient[wrong, target] == -1).all()
            assert (value[right] == 0).all() and (gradient[right] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_is_exact_at_extreme_logits(gamma, dtype):
    logits = torch.tensor([[-1e4], [-89.0], [0.0], [89.0], [1e4]], dtype=dtype).repeat(1, 2)
    hard = torch.tensor([[0.0, 1.0]]).repeat(5, 1)
    for labels in (hard, hard.long(), torch.tensor([[0.3, 0.7]]).repeat(5, 1)):
        value, gradient = value_and_gradient(
            lambda x, y=labels: focal_loss(x, y, "sigmoid", gamma=gamma, reduction="none"), logits
        )
        assert value.isfinite().all() and gradient.isfinite().all()
    if gamma:
        value, gradient = value_and_gradient(
            lambda x: focal_loss(x, hard, "sigmoid", gamma=gamma, reduction="none"), logits
        )
        assert value[0, 0] == value[4, 1] == 0 and gradient[0, 0] == gradient[4, 1] == 0
        assert value[4, 0] == logits[4, 0].float() and gradient[4, 0] == 1 and gradient[0, 1] == -1


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2])
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_small_error_keeps_its_precision(mode, gamma):
    # 1 - p = 3e-14 is far below float32's precision near 1. To first order, the loss is (1 - p)^gamma (1 - p).
    logits = torch.tensor([[31.0, 0.0]] if mode == "softmax" else [[31.0]])
    error = math.exp(-31)
    for target in (
        torch.tensor([0]) if mode == "softmax" else torch.ones(1, 1, dtype=torch.bool),
        logits.gt(0).float(),
    ):
        value, gradient = value_and_gradient(
            lambda x, t=target: focal_loss(x, t, mode, gamma=gamma, reduction="sum"), logits
        )
        assert_close(value, torch.tensor(error ** (gamma + 1)), rtol=1e-4, atol=0)
        assert_close(gradient[0, 0], torch.tensor(-(gamma + 1) * error ** (gamma + 1)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2])
def test_soft_label_that_equals_the_prediction_has_zero_loss_and_gradient(gamma):
    for mode, logits, labels in (
        ("sigmoid", torch.zeros(1, 1), torch.full((1, 1), 0.5)),
        ("softmax", torch.zeros(1, 4), torch.full((1, 4), 0.25)),
    ):
        value, gradient = value_and_gradient(lambda x, m=mode, y=labels: focal_loss(x, y, m, gamma=gamma), logits)
        assert value == 0 and (gradient == 0).all()


def test_classes_excluded_by_infinite_logits_have_no_loss():
    logits = torch.tensor([[-math.inf, 2.0, -math.inf]])
    for mode in ("softmax", "sigmoid"):
        for target in (torch.tensor([1]), torch.tensor([[0.0, 1.0, 0.0]])):
            value, gradient = value_and_gradient(
                lambda x, m=mode, t=target: focal_loss(x, t, m, reduction="sum"), logits
            )
            assert value.isfinite() and gradient[0, 0] == gradient[0, 2] == 0


def test_non_contiguous_inputs_give_the_same_loss():
    logits, targets, labels = example((4, 7, 3, 5), torch.float32)
    for mode in ("softmax", "sigmoid"):
        for given in (targets, labels):
            expected = value_and_gradient(lambda x, t=given, m=mode: focal_loss(x, t, m, reduction="none"), logits)
            moved = given.mT.contiguous().mT
            result = value_and_gradient(
                lambda x, t=moved, m=mode: focal_loss(x.movedim(0, 1), t, m, reduction="none"),
                logits.movedim(0, 1).contiguous(),
            )
            assert_close(result[0], expected[0])
            assert_close(result[1].movedim(0, 1), expected[1])
