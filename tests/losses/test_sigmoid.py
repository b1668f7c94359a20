"""`SigmoidFocalLoss` compared with torchvision's focal loss, and identities."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.testing import assert_close

from retinanet.losses import chunking
from retinanet.losses.sigmoid import SigmoidFocalLoss
from tests.helpers.gradients import value_and_gradient

HALF = (torch.bfloat16, torch.float16)


def term_by_term(logits, targets, *, alpha=0.25, gamma=2.0):
    """Loss of each logit (n,) as a separate anchor with one class, and the gradient of their sum."""
    loss, valid = SigmoidFocalLoss(alpha=alpha, gamma=gamma), torch.ones(1, dtype=torch.bool)
    labels = torch.where(targets, 0, 1)

    def losses(x):
        return torch.stack([loss(x[i : i + 1, None], labels[i : i + 1], valid) for i in range(len(x))])

    return value_and_gradient(losses, logits)


def logits_and_targets(count=300, spread=4.0):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, generator=generator) * spread, torch.rand(count, generator=generator) < 0.5


def anchors_to_classify(num_classes, *, shape=(2, 350), dtype=torch.float32, seed=0):
    """Logits around a prior of 0.02, labels, valid mask; a fifth of the anchors have a class, a fifth are ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(*shape, num_classes, generator=generator) * 3 - 4).to(dtype)
    draw = torch.rand(shape, generator=generator)
    labels = torch.where(draw < 0.2, torch.randint(num_classes, shape, generator=generator), num_classes)
    return logits, labels, (draw < 0.1) | (draw > 0.3)  # half of those with a class are ignored


def reference(logits, labels, valid, *, alpha=0.25, gamma=2.0, scale=1.0):
    """torchvision's loss with a one-hot target in float64: value and gradient, times a scale."""
    targets = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].double()

    def loss(x):
        losses = torchvision.ops.sigmoid_focal_loss(x, targets, alpha=alpha, gamma=gamma)
        return scale * losses[valid].sum()

    return value_and_gradient(loss, logits.double())


def test_focal_loss_by_hand():
    logits = torch.tensor([0.0, math.log(9), math.log(9), -math.log(9)])
    expected = [
        0.25 * 0.5**2 * math.log(2),  # p_t = 0.5
        0.25 * 0.1**2 * -math.log(0.9),  # p_t = 0.9: a very small loss
        0.75 * 0.9**2 * math.log(10),  # p_t = 0.1
        0.75 * 0.1**2 * -math.log(0.9),
    ]
    assert expected[0] == pytest.approx(0.0433217, abs=1e-7)
    value, _ = term_by_term(logits, torch.tensor([True, True, False, False]))
    assert_close(value, torch.tensor(expected))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.75])
def test_each_term_equals_torchvisions(alpha, gamma):
    logits, targets = logits_and_targets()
    value, gradient = term_by_term(logits, targets, alpha=alpha, gamma=gamma)
    expected, expected_gradient = value_and_gradient(
        lambda x: torchvision.ops.sigmoid_focal_loss(x, targets.double(), alpha=alpha, gamma=gamma), logits.double()
    )
    assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)
    assert_close(gradient, expected_gradient.float(), rtol=1e-5, atol=1e-6)


def test_gamma_zero_is_balanced_cross_entropy():
    logits, targets = logits_and_targets()
    value, gradient = term_by_term(logits, targets, alpha=0.75, gamma=0.0)
    alpha_t = torch.where(targets, 0.75, 0.25)
    expected, expected_gradient = value_and_gradient(
        lambda x: alpha_t * F.binary_cross_entropy_with_logits(x, targets.double(), reduction="none"), logits.double()
    )
    assert_close(value, expected.float(), rtol=1e-6, atol=1e-7)
    assert_close(gradient, expected_gradient.float(), rtol=1e-6, atol=1e-7)
    exact, exact_gradient = term_by_term(logits.double(), targets, alpha=0.75, gamma=0.0)
    assert_close(exact, expected, rtol=1e-13, atol=1e-15)
    assert_close(exact_gradient, expected_gradient, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0, 5.0])
def test_gamma_scales_each_term_by_its_error(gamma):
    logits, targets = logits_and_targets()
    logits = logits.double()
    error, sign = torch.sigmoid(torch.where(targets, -logits, logits)), torch.where(targets, -1, 1)  # 1 - p_t
    plain, plain_gradient = term_by_term(logits, targets, gamma=0.0)
    value, gradient = term_by_term(logits, targets, gamma=gamma)
    assert_close(value, plain * error**gamma, rtol=1e-13, atol=0)
    # Product rule: the derivative of the error with respect to the logit is error (1 - error), positive for negatives.
    derivative_of_factor = gamma * error**gamma * (1 - error) * sign
    assert_close(gradient, plain_gradient * error**gamma + plain * derivative_of_factor, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_alpha_zero_and_one_remove_positives_and_negatives(gamma):
    logits, targets = logits_and_targets()
    one_sided = {1.0: targets, 0.0: ~targets}
    unweighted = term_by_term(logits, targets, alpha=None, gamma=gamma)
    for alpha, has_loss in one_sided.items():
        value, gradient = term_by_term(logits, targets, alpha=alpha, gamma=gamma)
        assert torch.equal(value, torch.where(has_loss, unweighted[0], 0))
        assert_close(gradient, torch.where(has_loss, unweighted[1], 0), rtol=1e-6, atol=0)


def test_negated_logits_and_targets_give_the_loss_with_one_minus_alpha():
    logits, targets = logits_and_targets()
    value, gradient = term_by_term(logits, targets)
    swapped, swapped_gradient = term_by_term(-logits, ~targets, alpha=0.75)
    assert_close(value, swapped, rtol=1e-6, atol=1e-6)
    assert_close(gradient, -swapped_gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("num_classes", [1, 2, 80, 1203])
def test_sum_over_anchors_equals_torchvisions(num_classes, dtype):
    logits, labels, valid = anchors_to_classify(num_classes, dtype=dtype)
    assert (labels[valid] < num_classes).any() and (labels[~valid] < num_classes).any()
    value, gradient = value_and_gradient(lambda x: SigmoidFocalLoss()(x, labels, valid), logits)
    expected, expected_gradient = reference(logits, labels, valid)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert_close(value, expected.float(), rtol=1e-5, atol=0)
    # Rounded once to the dtype of the logits, it is within half a unit in the last place of the exact gradient.
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    smallest = {torch.float32: 1e-9, torch.bfloat16: 1e-9, torch.float16: 2**-25}[dtype]
    assert_close(gradient.double(), expected_gradient, rtol=rounding * 1.01, atol=smallest)
    assert (gradient[~valid] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
def test_other_alpha_and_gamma_equal_torchvisions(gamma, dtype):
    logits, labels, valid = anchors_to_classify(20, dtype=dtype)
    loss = SigmoidFocalLoss(alpha=0.6, gamma=gamma)
    value, gradient = value_and_gradient(lambda x: loss(x, labels, valid), logits)
    expected, expected_gradient = reference(logits, labels, valid, alpha=0.6, gamma=gamma)
    assert_close(value, expected.float(), rtol=1e-5, atol=0)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
    assert_close(gradient.double(), expected_gradient, rtol=rounding * 1.01, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunk_size_does_not_change_the_result(monkeypatch, dtype):
    logits, labels, valid = anchors_to_classify(7, dtype=dtype)
    whole, whole_gradient = value_and_gradient(lambda x: SigmoidFocalLoss()(x, labels, valid), logits)
    monkeypatch.setitem(chunking.LOGITS_AT_ONCE, "cpu", 100)  # 14 rows at once: the last chunk is smaller
    value, gradient = value_and_gradient(lambda x: SigmoidFocalLoss()(x, labels, valid), logits)
    assert_close(value, whole)
    assert_close(gradient, whole_gradient, rtol=1e-6, atol=0)  # the last elements of a chunk are not vectorised


def test_incoming_gradient_is_multiplied_before_rounding():
    # At p = 0.001 the gradient of a background logit is 0.75 p^2 (2 (1 - p) softplus(x) + p) = 2.25e-9, far below
    # the smallest float16, 6e-8. Scaled by 65,536, it is 1.5e-4, and must have the full precision of a float16.
    logits = torch.full((4, 3), math.log(0.001 / 0.999)).half()
    labels, valid = torch.full((4,), 3), torch.ones(4, dtype=torch.bool)
    _, plain = value_and_gradient(lambda x: SigmoidFocalLoss()(x, labels, valid), logits)
    _, scaled = value_and_gradient(lambda x: 65536.0 * SigmoidFocalLoss()(x, labels, valid), logits)
    _, exact = reference(logits, labels, valid, scale=65536.0)
    _, in_float32 = value_and_gradient(lambda x: 65536.0 * SigmoidFocalLoss()(x, labels, valid), logits.float())
    assert (plain == 0).all() and exact.min() > 1e-4
    assert_close(scaled.double(), exact, rtol=2**-11, atol=0)
    assert torch.equal(scaled, in_float32.half())


def test_divisor_and_weight_are_applied_before_rounding():
    logits, labels, valid = anchors_to_classify(5, dtype=torch.bfloat16)
    _, gradient = value_and_gradient(lambda x: 0.3 * SigmoidFocalLoss()(x, labels, valid) / 7, logits)
    _, exact = reference(logits, labels, valid, scale=0.3 / 7)
    assert_close(gradient.double(), exact, rtol=2**-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_extreme_logits_have_a_finite_loss_and_gradient(gamma, dtype):
    logits = torch.tensor([-1e4, -100, -20, 0, 20, 100, 1e4], dtype=dtype).repeat(2)
    targets = torch.arange(14) < 7
    value, gradient = term_by_term(logits, targets, gamma=gamma)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert value.isfinite().all() and gradient.isfinite().all()
    right, wrong = [6, 7], [0, 13]
    assert (value[right] == 0).all() and (gradient[right] == 0).all()
    assert_close(value[wrong], torch.tensor([0.25, 0.75]) * logits[6].float())
    assert_close(gradient[wrong].float(), torch.tensor([-0.25, 0.75]))


def test_nan_and_infinite_logits_affect_the_loss():
    logits = torch.tensor([[float("nan"), 0.0]], dtype=torch.float16)
    assert SigmoidFocalLoss()(logits, torch.tensor([2]), torch.tensor([True])).isnan()
    assert SigmoidFocalLoss()(logits.nan_to_num(torch.inf), torch.tensor([2]), torch.tensor([True])).isinf()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradient_matches_finite_differences(gamma):
    logits, labels, valid = anchors_to_classify(3, shape=(12,), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: SigmoidFocalLoss(gamma=gamma)(x, labels, valid), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_zero_without_valid_anchors(dtype):
    logits, labels, valid = anchors_to_classify(4, dtype=dtype)
    value, gradient = value_and_gradient(lambda x: SigmoidFocalLoss()(x, labels, torch.zeros_like(valid)), logits)
    assert value == 0 and (gradient == 0).all()
    value, gradient = value_and_gradient(lambda x: SigmoidFocalLoss()(x, labels[:, :0], valid[:, :0]), logits[:, :0])
    assert value == 0 and gradient.shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_does_not_wait_for_the_device(dtype, host_reads):
    logits, labels, valid = anchors_to_classify(4, dtype=dtype)
    with host_reads() as reads:
        value_and_gradient(lambda x: SigmoidFocalLoss()(x, labels, valid), logits)
    assert reads == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_logits_are_saved_at_full_size(dtype):
    logits, labels, valid = anchors_to_classify(50, dtype=dtype)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        SigmoidFocalLoss()(logits.requires_grad_(), labels, valid)
    others = {x.untyped_storage().data_ptr(): x.nbytes for x in saved}
    others.pop(logits.untyped_storage().data_ptr())
    assert sum(others.values()) < 0.3 * logits.nbytes


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_equals_torchvisions(dtype):
    loss = SigmoidFocalLoss(compile=True)
    for num_rows in (350, 90):
        logits, labels, valid = anchors_to_classify(11, shape=(2, num_rows), dtype=dtype)
        value, gradient = value_and_gradient(lambda x, y=labels, v=valid: loss(x, y, v), logits)
        expected, expected_gradient = reference(logits, labels, valid)
        assert_close(value, expected.float(), rtol=2e-5, atol=0)
        rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
        assert_close(gradient.double(), expected_gradient, rtol=rounding * 1.01, atol=1e-8)
