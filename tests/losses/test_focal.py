"""`FocalLoss`, the stand-alone module, compared with its formula, torch and torchvision."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

import retinanet
from retinanet.losses import chunking
from retinanet.losses.focal import FocalLoss
from tests.helpers.gradients import value_and_gradient
from tests.helpers.softmax_focal import softmax_focal_by_definition

GAMMAS = [0, 0.1, 0.5, 1, 2, 5]


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Make chunks so small that every test needs several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunking.LOGITS_AT_ONCE, "cpu", 40)
        yield


def to_classify(num_classes, *, shape=(60,), dtype=torch.float64, spread=3.0):
    """Logits (N, C, ...) and targets (N, ...)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], num_classes, *shape[1:], generator=generator, dtype=torch.float64) * spread
    return logits.to(dtype), torch.randint(num_classes, shape, generator=generator)


def test_focal_loss_is_a_public_name():
    assert retinanet.FocalLoss is FocalLoss


def test_focal_loss_by_hand():
    # Four equal logits give p = 1/4: (3/4)^2 ln 4 = 0.779791. Logits (ln 3, 0) give p = 3/4 and 1/4: ln(4/3) / 16 and
    # ln(4) 9/16.
    even = torch.zeros(1, 4)
    assert_close(FocalLoss(4)(even, torch.tensor([2])), torch.tensor(0.779791))
    odds = torch.tensor([[math.log(3), 0.0]]).repeat(2, 1)
    losses = FocalLoss(2, reduction="none")(odds, torch.tensor([0, 1]))
    assert_close(losses, torch.tensor([0.0179801, 0.7797905]))
    weighted = FocalLoss(2, alpha=[0.5, 2.0], reduction="none")(odds, torch.tensor([0, 1]))
    assert_close(weighted, torch.tensor([0.0089901, 1.5595810]))


@pytest.mark.parametrize("shape", [(60,), (4, 5), (3, 2, 5)])
@pytest.mark.parametrize("alpha", [None, [0.2, 1.5, 0.0, 3.0, 0.7]])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_value_and_gradient_match_the_formula(gamma, alpha, shape):
    logits, targets = to_classify(5, shape=shape)
    alpha = alpha and torch.tensor(alpha, dtype=torch.float64)
    expected, gradient = value_and_gradient(
        lambda x: softmax_focal_by_definition(x, targets, alpha=alpha, gamma=gamma), logits
    )
    loss = FocalLoss(5, alpha, gamma, reduction="none")
    value, result = value_and_gradient(lambda x: loss(x, targets), logits)
    assert value.shape == shape
    assert_close(value, expected)
    assert_close(result, gradient)
    for reduction, reduced in (("sum", expected.sum()), ("mean", expected.sum() / targets.numel())):
        assert_close(FocalLoss(5, alpha, gamma, reduction=reduction)(logits, targets), reduced)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_zero_equals_torchs_cross_entropy(dtype, reduction):
    logits, targets = to_classify(7, dtype=dtype)
    loss = FocalLoss(7, gamma=0.0, reduction=reduction)
    result = value_and_gradient(lambda x: loss(x, targets), logits)
    assert_close(result, value_and_gradient(lambda x: F.cross_entropy(x, targets, reduction=reduction), logits))


def test_alpha_keeps_the_dtype_of_a_tensor_but_not_of_an_array():
    array = np.array([0.25, 0.75])
    assert FocalLoss(2, array).alpha.dtype == torch.float32
    assert FocalLoss(2, torch.from_numpy(array)).alpha.dtype == torch.float64


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gamma_scales_each_term_by_its_error(gamma):
    logits, targets = to_classify(4)
    error = 1 - logits.softmax(1).gather(1, targets[:, None])[:, 0]
    plain = FocalLoss(4, gamma=0.0, reduction="none")(logits, targets)
    assert_close(FocalLoss(4, gamma=gamma, reduction="none")(logits, targets), plain * error**gamma)


def test_mean_does_not_divide_by_the_weights():
    logits, targets = to_classify(3)
    alpha = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    summed = F.cross_entropy(logits, targets, weight=alpha, reduction="sum")
    assert_close(FocalLoss(3, alpha, gamma=0)(logits, targets), summed / len(targets))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_classes_equal_the_sigmoid_focal_loss_of_the_difference(gamma):
    logits, targets = to_classify(2, shape=(200,), spread=8.0)
    alpha = torch.tensor([0.7, 0.3], dtype=torch.float64)  # in torchvision: 1 - alpha for label 0, alpha for 1
    loss = FocalLoss(2, alpha, gamma, reduction="none")
    result = value_and_gradient(lambda x: loss(x, targets), logits)
    theirs = value_and_gradient(
        lambda x: torchvision.ops.sigmoid_focal_loss(x[:, 1] - x[:, 0], targets.double(), alpha=0.3, gamma=gamma),
        logits,
    )
    assert_close(result, theirs)


@settings(deadline=None)
@given(st.integers(2, 6), st.floats(-50, 50), st.sampled_from(GAMMAS), st.integers(0, 2**32 - 1))
def test_adding_a_constant_to_all_logits_changes_nothing_and_the_gradient_sums_to_zero(num_classes, shift, gamma, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, num_classes, generator=generator, dtype=torch.float64) * 4
    targets = torch.randint(num_classes, (5,), generator=generator)
    loss = FocalLoss(num_classes, gamma=gamma, reduction="none")
    value, gradient = value_and_gradient(lambda x: loss(x, targets), logits)
    assert_close((value, gradient), value_and_gradient(lambda x: loss(x, targets), logits + shift))
    assert (value >= 0).all()
    assert_close(gradient.sum(1), torch.zeros(5, dtype=torch.float64))
    assert (gradient.gather(1, targets[:, None]) <= 0).all()


@pytest.mark.parametrize("alpha", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_matches_finite_differences(gamma, alpha):
    logits, targets = to_classify(3, shape=(4, 2))
    for reduction in ("mean", "none"):
        loss = FocalLoss(3, alpha, gamma, reduction)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, targets), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_extreme_logits_have_a_finite_loss_and_gradient(gamma, dtype):
    extreme = [-1e4, -89.0, 0.0, 89.0, 1e4]
    logits = torch.tensor([[a, b, c] for a in extreme for b in extreme for c in extreme], dtype=dtype)
    for target in range(3):
        targets = torch.full((len(logits),), target)
        value, gradient = value_and_gradient(FocalLoss(3, gamma=gamma, reduction="none"), logits, targets)
        assert value.isfinite().all() and gradient.isfinite().all()
        others = torch.cat([logits[:, :target], logits[:, target + 1 :]], 1).double().amax(1)
        margin = others - logits[:, target].double()
        # Clearly wrong predictions have the margin as loss, with gradient 1 and -1. For clearly right ones, both are 0.
        wrong, right = margin > 1000, margin < -1000
        assert_close(value[wrong].double(), margin[wrong], rtol=1e-3, atol=0)
        assert (gradient[wrong, target] == -1).all()
        assert (value[right] == 0).all() and (gradient[right] == 0).all()


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2])
def test_small_error_keeps_its_precision(gamma):
    # 1 - p = 3e-14 is far below float32's precision near 1. To first order, the loss is (1 - p)^gamma (1 - p).
    logits = torch.tensor([[31.0, 0.0]])
    error = math.exp(-31)
    value, gradient = value_and_gradient(lambda x: FocalLoss(2, gamma=gamma)(x, torch.tensor([0])), logits)
    assert_close(value, torch.tensor(error ** (gamma + 1)), rtol=1e-4, atol=0)
    derivative = (gamma + 1) * error ** (gamma + 1)
    assert_close(gradient, torch.tensor([[-derivative, derivative]]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype):
    logits, targets = to_classify(6, dtype=dtype)
    for reduction in ("mean", "sum", "none"):
        loss = FocalLoss(6, reduction=reduction)
        value, gradient = value_and_gradient(lambda x, loss=loss: loss(x, targets), logits)
        same, same_gradient = value_and_gradient(lambda x, loss=loss: loss(x, targets), logits.float())
        assert value.dtype == torch.float32 and torch.equal(value, same)
        assert gradient.dtype == dtype and torch.equal(gradient, same_gradient.to(dtype))
    assert FocalLoss(6)(logits.double(), targets).dtype == torch.float64


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_empty_input_gives_zero_loss(shape):
    logits, targets = to_classify(5, shape=shape, dtype=torch.float32)
    for reduction in ("mean", "sum"):
        value, gradient = value_and_gradient(FocalLoss(5, reduction=reduction), logits, targets)
        assert value == 0 and gradient.shape == logits.shape
    assert FocalLoss(5, reduction="none")(logits, targets).shape == shape


@pytest.mark.parametrize("gamma", GAMMAS)
def test_classes_excluded_by_infinite_logits_have_zero_loss_and_gradient(gamma):
    logits = torch.tensor([[-math.inf, 2.0, -math.inf]])
    value, gradient = value_and_gradient(FocalLoss(3, gamma=gamma), logits, torch.tensor([1]))
    assert value == 0 and (gradient == 0).all()


def test_nan_logit_makes_the_loss_of_its_row_nan():
    logits = torch.tensor([[0.0, math.nan, 1.0], [1.0, 2.0, 3.0]])
    loss = FocalLoss(3, reduction="none")
    for target in range(3):
        assert loss(logits, torch.tensor([target, target])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_alpha_may_be_a_list_tuple_array_or_tensor_and_is_copied(kind):
    logits, targets = to_classify(3)
    values = [0.25, 0.5, 2.0]
    given_alpha = kind(values)
    loss = FocalLoss(3, given_alpha)
    expected = softmax_focal_by_definition(logits, targets, alpha=values).mean()
    assert_close(loss(logits, targets), expected)
    given_alpha = given_alpha if isinstance(given_alpha, tuple) else given_alpha.__setitem__(0, 9.0)
    assert_close(loss(logits, targets), expected)  # changing the original has no effect


def test_one_number_weights_all_classes_equally():
    logits, targets = to_classify(3)
    assert_close(FocalLoss(3, 0.25)(logits, targets), FocalLoss(3)(logits, targets) / 4)
    assert_close(FocalLoss(3, [1, 1, 1])(logits, targets), FocalLoss(3, 1)(logits, targets))


def test_alpha_is_a_buffer():
    loss = FocalLoss(3, [0.25, 0.5, 2.0])
    assert loss.state_dict().keys() == {"alpha"} and list(loss.parameters()) == []
    assert copy.deepcopy(loss).to("meta").alpha.device.type == "meta"
    assert FocalLoss(3).state_dict() == {} and FocalLoss(3).to("meta").alpha is None
    assert repr(loss) == "FocalLoss(3, alpha=(3,), gamma=2.0, reduction='mean')"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_targets_may_have_any_integer_type(dtype):
    logits, targets = to_classify(3)
    assert_close(FocalLoss(3)(logits, targets.to(dtype)), FocalLoss(3)(logits, targets))


def test_numpy_numbers_are_accepted():
    logits, targets = to_classify(3)
    assert_close(FocalLoss(np.int64(3), gamma=np.float32(2))(logits, targets), FocalLoss(3)(logits, targets))


@pytest.mark.parametrize("alpha", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("shape", [(8,), (2, 3, 4)])
def test_loss_never_waits_for_an_accelerator(shape, alpha, host_reads):
    loss = FocalLoss(3, alpha)
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(shape[0], 3, *shape[1:], device="cuda")
        targets = torch.zeros(shape, dtype=torch.int64, device="cuda")
        if alpha:
            loss.alpha = torch.empty(3, device="cuda")  # Module.to does not work in a fake mode
        assert loss(logits, targets).device.type == "cuda"  # a fake tensor has no values, so nothing was read
    loss = FocalLoss(3, alpha)
    logits, targets = to_classify(3, shape=shape)
    with host_reads() as reads:  # on the CPU, where reading is free, the range of the targets is checked
        loss(logits.requires_grad_(), targets).backward()
    assert reads == ["aten::_local_scalar_dense"] * 2


def test_only_the_logits_are_saved_at_full_size():
    logits, targets = to_classify(50, shape=(300,), dtype=torch.bfloat16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        FocalLoss(50)(logits.requires_grad_(), targets)
    others = {x.untyped_storage().data_ptr(): x.nbytes for x in saved}
    others.pop(logits.untyped_storage().data_ptr())
    assert sum(others.values()) < 0.3 * logits.nbytes
