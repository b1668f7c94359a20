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
from retinanet.losses import softmax_focal
from retinanet.losses.softmax_focal import SoftmaxFocal, SoftmaxFocalLoss
from tests.gradients import value_and_gradient

GAMMAS = [0, 0.1, 0.5, 1, 2, 5]


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Few enough logits at once that every test meets the edge of a chunk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(softmax_focal.LOGITS_AT_ONCE, "cpu", 40)
        yield


def to_classify(num_classes, *, shape=(60,), dtype=torch.float64, spread=3.0):
    """Logits (N, C, ...) and targets (N, ...)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], num_classes, *shape[1:], generator=generator, dtype=torch.float64) * spread
    return logits.to(dtype), torch.randint(num_classes, shape, generator=generator)


def by_definition(logits, targets, *, alpha=None, gamma=2.0):
    """-alpha_c (1 - p_c)^gamma log p_c in float64 by autograd, of each target; for mild logits."""
    log_p = logits.double().log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
    weights = 1 if alpha is None else torch.as_tensor(alpha, dtype=torch.float64)[targets]
    return -weights * (1 - log_p.exp()) ** gamma * log_p


def test_it_is_a_public_name():
    assert retinanet.SoftmaxFocalLoss is SoftmaxFocalLoss


def test_worked_by_hand():
    # Of four equal logits p = 1/4: (3/4)^2 ln 4 = 0.779791. Of (ln 3, 0): p = 3/4 and 1/4: ln(4/3) / 16, ln(4) 9/16.
    even = torch.zeros(1, 4)
    assert_close(SoftmaxFocalLoss(4)(even, torch.tensor([2])), torch.tensor(0.779791))
    odds = torch.tensor([[math.log(3), 0.0]]).repeat(2, 1)
    losses = SoftmaxFocalLoss(2, reduction="none")(odds, torch.tensor([0, 1]))
    assert_close(losses, torch.tensor([0.0179801, 0.7797905]))
    weighted = SoftmaxFocalLoss(2, alpha=[0.5, 2.0], reduction="none")(odds, torch.tensor([0, 1]))
    assert_close(weighted, torch.tensor([0.0089901, 1.5595810]))


@pytest.mark.parametrize("shape", [(60,), (4, 5), (3, 2, 5)])
@pytest.mark.parametrize("alpha", [None, [0.2, 1.5, 0.0, 3.0, 0.7]])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_it_is_the_formula_in_value_and_gradient(gamma, alpha, shape):
    logits, targets = to_classify(5, shape=shape)
    alpha = alpha and torch.tensor(alpha, dtype=torch.float64)
    expected, gradient = value_and_gradient(lambda x: by_definition(x, targets, alpha=alpha, gamma=gamma), logits)
    loss = SoftmaxFocalLoss(5, alpha, gamma, reduction="none")
    value, own = value_and_gradient(lambda x: loss(x, targets), logits)
    assert value.shape == shape
    assert_close(value, expected)
    assert_close(own, gradient)
    for reduction, wanted in (("sum", expected.sum()), ("mean", expected.sum() / targets.numel())):
        assert_close(SoftmaxFocalLoss(5, alpha, gamma, reduction=reduction)(logits, targets), wanted)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_zero_is_torchs_cross_entropy(dtype, reduction):
    logits, targets = to_classify(7, dtype=dtype)
    loss = SoftmaxFocalLoss(7, gamma=0.0, reduction=reduction)
    ours = value_and_gradient(lambda x: loss(x, targets), logits)
    assert_close(ours, value_and_gradient(lambda x: F.cross_entropy(x, targets, reduction=reduction), logits))


def test_an_array_has_the_default_type_and_a_tensor_its_own():
    array = np.array([0.25, 0.75])
    assert SoftmaxFocalLoss(2, array).alpha.dtype == torch.float32
    assert SoftmaxFocalLoss(2, torch.from_numpy(array)).alpha.dtype == torch.float64


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gamma_scales_each_term_by_its_error(gamma):
    logits, targets = to_classify(4)
    error = 1 - logits.softmax(1).gather(1, targets[:, None])[:, 0]
    plain = SoftmaxFocalLoss(4, gamma=0.0, reduction="none")(logits, targets)
    assert_close(SoftmaxFocalLoss(4, gamma=gamma, reduction="none")(logits, targets), plain * error**gamma)


def test_mean_does_not_divide_by_the_weights():
    logits, targets = to_classify(3)
    alpha = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    summed = F.cross_entropy(logits, targets, weight=alpha, reduction="sum")
    assert_close(SoftmaxFocalLoss(3, alpha, gamma=0)(logits, targets), summed / len(targets))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_classes_are_a_sigmoid_on_the_difference(gamma):
    logits, targets = to_classify(2, shape=(200,), spread=8.0)
    alpha = torch.tensor([0.7, 0.3], dtype=torch.float64)  # torchvision's: 1 - alpha for 0, alpha for 1
    loss = SoftmaxFocalLoss(2, alpha, gamma, reduction="none")
    ours = value_and_gradient(lambda x: loss(x, targets), logits)
    theirs = value_and_gradient(
        lambda x: torchvision.ops.sigmoid_focal_loss(x[:, 1] - x[:, 0], targets.double(), alpha=0.3, gamma=gamma),
        logits,
    )
    assert_close(ours, theirs)


@settings(deadline=None)
@given(st.integers(1, 6), st.floats(-50, 50), st.sampled_from(GAMMAS), st.integers(0, 2**32 - 1))
def test_what_is_added_to_all_logits_changes_nothing_and_the_gradient_sums_to_zero(num_classes, shift, gamma, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, num_classes, generator=generator, dtype=torch.float64) * 4
    targets = torch.randint(num_classes, (5,), generator=generator)
    loss = SoftmaxFocalLoss(num_classes, gamma=gamma, reduction="none")
    value, gradient = value_and_gradient(lambda x: loss(x, targets), logits)
    assert_close((value, gradient), value_and_gradient(lambda x: loss(x, targets), logits + shift))
    assert (value >= 0).all()
    assert_close(gradient.sum(1), torch.zeros(5, dtype=torch.float64))
    assert (gradient.gather(1, targets[:, None]) <= 0).all()


@pytest.mark.parametrize("alpha", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_by_finite_differences(gamma, alpha):
    logits, targets = to_classify(3, shape=(4, 2))
    for reduction in ("mean", "none"):
        loss = SoftmaxFocalLoss(3, alpha, gamma, reduction)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, targets), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_extreme_logits_are_finite(gamma, dtype):
    extreme = [-1e4, -89.0, 0.0, 89.0, 1e4]
    logits = torch.tensor([[a, b, c] for a in extreme for b in extreme for c in extreme], dtype=dtype)
    for own in range(3):
        targets = torch.full((len(logits),), own)
        value, gradient = value_and_gradient(SoftmaxFocalLoss(3, gamma=gamma, reduction="none"), logits, targets)
        assert value.isfinite().all() and gradient.isfinite().all()
        others = torch.cat([logits[:, :own], logits[:, own + 1 :]], 1).double().amax(1)
        margin = others - logits[:, own].double()
        # Wrong by far: the loss is the margin, of which the gradient is 1 and -1. Right by far: both are nothing.
        wrong, right = margin > 1000, margin < -1000
        assert_close(value[wrong].double(), margin[wrong], rtol=1e-3, atol=0)
        assert (gradient[wrong, own] == -1).all()
        assert (value[right] == 0).all() and (gradient[right] == 0).all()


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2])
def test_a_small_error_keeps_its_digits(gamma):
    # 1 - p = 3e-14 is far below float32's precision of 1: its loss is (1 - p)^gamma (1 - p), to first order.
    logits = torch.tensor([[31.0, 0.0]])
    error = math.exp(-31)
    value, gradient = value_and_gradient(lambda x: SoftmaxFocalLoss(2, gamma=gamma)(x, torch.tensor([0])), logits)
    assert_close(value, torch.tensor(error ** (gamma + 1)), rtol=1e-4, atol=0)
    slope = (gamma + 1) * error ** (gamma + 1)
    assert_close(gradient, torch.tensor([[-slope, slope]]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype):
    logits, targets = to_classify(6, dtype=dtype)
    for reduction in ("mean", "sum", "none"):
        loss = SoftmaxFocalLoss(6, reduction=reduction)
        value, gradient = value_and_gradient(lambda x, loss=loss: loss(x, targets), logits)
        same, same_gradient = value_and_gradient(lambda x, loss=loss: loss(x, targets), logits.float())
        assert value.dtype == torch.float32 and torch.equal(value, same)
        assert gradient.dtype == dtype and torch.equal(gradient, same_gradient.to(dtype))
    assert SoftmaxFocalLoss(6)(logits.double(), targets).dtype == torch.float64


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_nothing_to_learn_from(shape):
    logits, targets = to_classify(5, shape=shape, dtype=torch.float32)
    for reduction in ("mean", "sum"):
        value, gradient = value_and_gradient(SoftmaxFocalLoss(5, reduction=reduction), logits, targets)
        assert value == 0 and gradient.shape == logits.shape
    assert SoftmaxFocalLoss(5, reduction="none")(logits, targets).shape == shape


@pytest.mark.parametrize("gamma", GAMMAS)
def test_one_class_alone_is_always_right(gamma):
    logits = torch.tensor([[-1e4], [0.0], [3.0], [1e4]])
    targets = torch.zeros(4, dtype=torch.int64)
    value, gradient = value_and_gradient(SoftmaxFocalLoss(1, gamma=gamma), logits, targets)
    assert value == 0 and (gradient == 0).all()


def test_what_is_no_number_shows():
    logits = torch.tensor([[0.0, math.nan, 1.0], [1.0, 2.0, 3.0]])
    loss = SoftmaxFocalLoss(3, reduction="none")
    for own in range(3):
        assert loss(logits, torch.tensor([own, own])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_alpha_in_every_form(kind):
    logits, targets = to_classify(3)
    values = [0.25, 0.5, 2.0]
    given_alpha = kind(values)
    loss = SoftmaxFocalLoss(3, given_alpha)
    expected = by_definition(logits, targets, alpha=values).mean()
    assert_close(loss(logits, targets), expected)
    given_alpha = given_alpha if isinstance(given_alpha, tuple) else given_alpha.__setitem__(0, 9.0)
    assert_close(loss(logits, targets), expected)  # a copy of it is kept


def test_a_number_weighs_every_class_the_same():
    logits, targets = to_classify(3)
    assert_close(SoftmaxFocalLoss(3, 0.25)(logits, targets), SoftmaxFocalLoss(3)(logits, targets) / 4)
    assert_close(SoftmaxFocalLoss(3, [1, 1, 1])(logits, targets), SoftmaxFocalLoss(3, 1)(logits, targets))


def test_alpha_is_a_buffer():
    loss = SoftmaxFocalLoss(3, [0.25, 0.5, 2.0])
    assert loss.state_dict().keys() == {"alpha"} and list(loss.parameters()) == []
    assert copy.deepcopy(loss).to("meta").alpha.device.type == "meta"
    assert SoftmaxFocalLoss(3).state_dict() == {} and SoftmaxFocalLoss(3).to("meta").alpha is None
    assert repr(loss) == "SoftmaxFocalLoss(3, alpha=(3,), gamma=2.0, reduction='mean')"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_targets_of_every_integer_type(dtype):
    logits, targets = to_classify(3)
    assert_close(SoftmaxFocalLoss(3)(logits, targets.to(dtype)), SoftmaxFocalLoss(3)(logits, targets))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0, expected a whole number from 1"),
        ({"num_classes": 2.0}, r"num_classes is 2\.0, expected a whole number"),
        ({"gamma": -0.5}, r"gamma is -0\.5, expected a number from 0 upwards"),
        ({"gamma": math.nan}, "gamma is nan"),
        ({"gamma": math.inf}, "gamma is inf"),
        ({"reduction": "avg"}, "reduction is 'avg', expected one of 'mean', 'sum', 'none'"),
        ({"alpha": [1.0, 2.0]}, r"alpha has the shape \(2,\), expected a weight for each of 3 classes"),
        ({"alpha": torch.ones(3, 1)}, r"alpha has the shape \(3, 1\)"),
        ({"alpha": [1.0, -0.5, 2.0]}, r"alpha is \[1\.0, -0\.5, 2\.0\], expected weights from 0 upwards"),
        ({"alpha": -1}, "expected weights from 0 upwards"),
        ({"alpha": [1.0, math.nan, 2.0]}, "expected weights from 0 upwards"),
        ({"alpha": [1.0, math.inf, 2.0]}, "expected weights from 0 upwards"),
        ({"num_classes": True}, "num_classes is True, expected a whole number"),
        *(({"gamma": wrong}, "expected a number from 0 upwards") for wrong in (None, "2", [1.0], True)),
        *(
            ({"alpha": wrong}, "expected a number, or a weight for each of 3 classes")
            for wrong in ("abc", [0.2, None, 1.0], {"a": 1.0}, [[1.0], [1.0, 2.0]], [1j, 1.0, 1.0])
        ),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxFocalLoss(**{"num_classes": 3, **settings})


def test_numbers_of_numpy_are_numbers():
    logits, targets = to_classify(3)
    assert_close(
        SoftmaxFocalLoss(np.int64(3), gamma=np.float32(2))(logits, targets), SoftmaxFocalLoss(3)(logits, targets)
    )


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3), torch.tensor([0]), r"logits have the shape \(3,\), expected \(N, 3\) or \(N, 3, d1, \.\.\.\)"),
        (torch.zeros(2, 4), torch.tensor([0, 1]), r"logits have the shape \(2, 4\), expected \(N, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), "logits are torch.int64, expected a float type"),
        (torch.zeros(2, 3), torch.tensor([0]), r"targets have the shape \(1,\), expected \(2,\) for logits \(2, 3\)"),
        (torch.zeros(2, 3, 5), torch.tensor([0, 1]), r"targets have the shape \(2,\), expected \(2, 5\)"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "targets are torch.float32, expected the index of each class as"),
        (torch.zeros(2, 3), torch.tensor([False, True]), "targets are torch.bool, expected .* as one of torch.int64"),
        (torch.zeros(2, 3), [0, 1], r"targets are list, expected a torch\.Tensor"),
        (np.zeros((2, 3)), torch.tensor([0, 1]), r"logits are ndarray, expected a torch\.Tensor"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"targets are in 0\.\.3, expected 0\.\.2"),
        (torch.zeros(2, 3), torch.tensor([-100, 1]), r"targets are in -100\.\.1, expected 0\.\.2"),
    ],
)
def test_bad_input_is_refused(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxFocalLoss(3)(logits, targets)


@pytest.mark.parametrize("alpha", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("shape", [(8,), (2, 3, 4)])
def test_the_host_does_not_wait_for_an_accelerator(shape, alpha, host_reads):
    loss = SoftmaxFocalLoss(3, alpha)
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(shape[0], 3, *shape[1:], device="cuda")
        targets = torch.zeros(shape, dtype=torch.int64, device="cuda")
        if alpha:
            loss.alpha = torch.empty(3, device="cuda")  # Module.to does not work in a fake mode
        assert loss(logits, targets).device.type == "cuda"  # and a fake tensor has no values to read
    loss = SoftmaxFocalLoss(3, alpha)
    logits, targets = to_classify(3, shape=shape)
    with host_reads() as reads:  # on the CPU, where no one waits, the range of the targets is looked at
        loss(logits.requires_grad_(), targets).backward()
    assert reads == ["aten::_local_scalar_dense"] * 2


def test_nothing_of_the_size_of_the_logits_is_kept_but_the_logits():
    logits, targets = to_classify(50, shape=(300,), dtype=torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        SoftmaxFocalLoss(50)(logits.requires_grad_(), targets)
    others = {x.untyped_storage().data_ptr(): x.nbytes for x in kept}
    others.pop(logits.untyped_storage().data_ptr())
    assert sum(others.values()) < 0.3 * logits.nbytes


# ---- as the class loss of a head


def anchors_to_classify(num_classes, *, shape=(2, 50), dtype=torch.float64):
    """Logits (..., K + 1), labels with K for background, and which anchors count."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, num_classes + 1, generator=generator, dtype=torch.float64) * 3
    lot = torch.rand(shape, generator=generator)
    labels = torch.where(lot < 0.4, torch.randint(num_classes, shape, generator=generator), num_classes)
    return logits.to(dtype), labels, (lot < 0.3) | (lot > 0.5)


@pytest.mark.parametrize(
    ("alpha", "weights"),
    [
        (None, [1, 1, 1, 1]),
        (0.75, [0.75, 0.75, 0.75, 0.25]),
        ((0.9, 0.5, 0.1), [0.9, 0.5, 0.1, 0.5]),
        ((0.2, 0.2, 0.8), [0.2, 0.2, 0.8, 0.6]),
    ],
)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_sum_over_anchors_that_count(gamma, alpha, weights):
    logits, labels, counted = anchors_to_classify(3)
    rule = SoftmaxFocal(alpha=alpha, gamma=gamma)

    def expected(x):
        return by_definition(x[counted], labels[counted], alpha=weights, gamma=gamma).sum()

    ours = value_and_gradient(lambda x: rule(x, labels, counted), logits)
    assert_close(ours, value_and_gradient(expected, logits), rtol=1e-6, atol=1e-9)
    assert (ours[1][~counted] == 0).all() and counted.any() and not counted.all()


def test_labels_of_other_anchors_are_refused():
    logits, labels, counted = anchors_to_classify(3)
    with pytest.raises(ValueError, match=r"labels have the shape \(100,\), expected \(2, 50\)"):
        SoftmaxFocal()(logits, labels.flatten(), counted)


def test_one_class_against_background_is_the_sigmoids_focal_loss():
    logits, labels, counted = anchors_to_classify(1)
    difference = logits[..., 0] - logits[..., 1]
    expected = torchvision.ops.sigmoid_focal_loss(difference, (labels == 0).double(), alpha=0.25, gamma=2.0)
    assert_close(SoftmaxFocal(alpha=0.25)(logits, labels, counted), expected[counted].sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_of_low_precision_and_nothing_that_counts(dtype, host_reads):
    logits, labels, counted = anchors_to_classify(4, dtype=dtype)
    rule = SoftmaxFocal(alpha=0.25)
    with host_reads() as reads:
        value, gradient = value_and_gradient(lambda x: rule(x, labels, counted), logits)
    assert reads == []
    assert value.dtype == torch.float32 and gradient.dtype == dtype and value > 0
    value, gradient = value_and_gradient(lambda x: rule(x, labels, torch.zeros_like(counted)), logits)
    assert value == 0 and (gradient == 0).all()
    value, _ = value_and_gradient(lambda x: rule(x, labels[:, :0], counted[:, :0]), logits[:, :0])
    assert value == 0
