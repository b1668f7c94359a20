import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.losses import fused_sigmoid
from retinanet.losses.focal import Focal, FocalStar, Hinge, SigmoidFocal
from retinanet.losses.fused_sigmoid import SigmoidLoss
from tests.gradients import value_and_gradient

CURVES = {
    "focal": Focal(2.0),
    "focal, gamma 0.5": Focal(0.5),
    "cross entropy": Focal(0.0),
    "focal star": FocalStar(2.0, 1.0),
    "focal star, steep": FocalStar(4.0, 0.0),
    "hinge": Hinge(),
}
each_curve = pytest.mark.parametrize("name", CURVES)
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
# Rounded once to the type of the logits, a gradient is within half a unit in the last place of the exact one.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
SMALLEST = {torch.float32: 1e-8, torch.bfloat16: 1e-8, torch.float16: 2**-25}


def by_definition(name, p_t):
    """The losses as functions of p_t, as the papers write them, in float64."""
    x_t = (p_t / (1 - p_t)).log()
    return {
        "focal": lambda: -((1 - p_t) ** 2) * p_t.log(),
        "focal, gamma 0.5": lambda: -((1 - p_t) ** 0.5) * p_t.log(),
        "cross entropy": lambda: -p_t.log(),
        "focal star": lambda: -torch.sigmoid(2 * x_t + 1).log() / 2,
        "focal star, steep": lambda: -torch.sigmoid(4 * x_t).log() / 4,
        "hinge": lambda: (0.5 - p_t).clamp(min=0),
    }[name]()


def slowly(name, logits, labels, counted, own, other):
    """With a one-hot target, in float64; weights (K,)."""
    is_own = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].bool()
    p = torch.sigmoid(logits)
    each = torch.where(is_own, own * by_definition(name, p), other * by_definition(name, 1 - p))
    return torch.where(counted[..., None], each, 0).sum()


def anchors_to_classify(num_classes, *, shape=(2, 150), dtype=torch.float32):
    """A fifth of the anchors of a class, a fifth ignored."""
    generator = torch.Generator().manual_seed(num_classes)
    logits = (torch.randn(*shape, num_classes, generator=generator) * 3 - 1).to(dtype)
    lot = torch.rand(shape, generator=generator)
    labels = torch.where(lot < 0.2, torch.randint(num_classes, shape, generator=generator), num_classes)
    return logits, labels, (lot < 0.1) | (lot > 0.3)


def alphas(num_classes):
    return (
        torch.linspace(0.1, 0.9, num_classes, dtype=torch.float64) if num_classes > 1 else torch.tensor([0.7]).double()
    )


@pytest.mark.parametrize("own", [0.25, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_easy_objects_keep_their_digits(gamma, own):
    # Each would cost 10 to 1e4 as background; added and taken off again, that would leave its rounding error.
    logits = torch.full((300, 5), -12.0)
    logits[:, 2] = torch.linspace(10, 15, 300)
    logits[0] = torch.tensor([1e4, 0.0, 1e4, -1e4, 0.0])
    labels, counted = torch.full((300,), 2), torch.ones(300, dtype=torch.bool)
    value = SigmoidFocal(alpha=own, gamma=gamma)(logits, labels, counted)
    is_own = F.one_hot(labels, 5).bool()
    z = torch.where(is_own, -logits, logits).double()
    each = torch.sigmoid(z) ** gamma * F.softplus(z) * torch.where(is_own, own, 1 - own)
    assert_close(value.double(), each.sum(), rtol=1e-5, atol=0)
    easy = SigmoidFocal(alpha=own, gamma=gamma)(logits[1:], labels[1:], counted[1:])
    assert easy > 0
    assert_close(easy.double(), each[1:].sum(), rtol=1e-5, atol=0)


def test_focal_star_by_hand():
    # gamma 2, beta 1. x_t = 0: ln(1 + e^-1) / 2; x_t = -1: ln(1 + e) / 2, with slope sigmoid(1) in z = -x_t
    z = torch.tensor([0.0, 1.0])
    assert_close(FocalStar(2.0, 1.0).loss(z), torch.tensor([0.1566308, 0.6566308]))
    assert_close(FocalStar(2.0, 1.0).slope(z), torch.tensor([1 / (1 + math.e), 1 / (1 + 1 / math.e)]))


def test_hinge_by_hand():
    z = torch.tensor([math.log(0.7 / 0.3), math.log(0.3 / 0.7)])  # p_t = 0.3, and 0.7, which is beyond the margin
    assert_close(Hinge().loss(z), torch.tensor([0.2, 0.0]))
    assert_close(Hinge().slope(z), torch.tensor([0.21, 0.0]))
    assert_close(Hinge(margin=0.9).loss(z), torch.tensor([0.6, 0.2]))


@each_curve
def test_curve_is_the_loss_of_its_definition(name):
    z = torch.linspace(-8, 8, 200, dtype=torch.float64)  # never 0, where the hinge has its corner
    wanted, slope = value_and_gradient(lambda z: by_definition(name, torch.sigmoid(-z)).sum(), z)
    assert_close(CURVES[name].loss(z).sum(), wanted)
    assert_close(CURVES[name].slope(z), slope, rtol=1e-7, atol=1e-10)


@settings(deadline=None)
@given(st.sampled_from(sorted(CURVES)), st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32))
def test_curves_rise_from_zero_with_finite_slopes(name, first, second):
    z = torch.tensor(sorted((first, second)))
    loss, slope = CURVES[name].loss(z), CURVES[name].slope(z)
    assert loss.isfinite().all() and slope.isfinite().all()
    assert loss[0] >= 0 and loss[0] <= loss[1] * (1 + 1e-6)
    assert (slope >= 0).all() and (slope <= 2).all()


def test_focal_star_of_gamma_one_is_cross_entropy():
    logits, labels, counted = anchors_to_classify(5)
    star = value_and_gradient(lambda x: SigmoidLoss(FocalStar(1.0, 0.0))(x, labels, counted), logits)
    plain = value_and_gradient(lambda x: SigmoidLoss(Focal(0.0))(x, labels, counted), logits)
    assert_close(star, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("num_classes", [1, 2, 90])
def test_cross_entropy_is_torchs(num_classes):
    logits, labels, counted = anchors_to_classify(num_classes)
    wanted = F.one_hot(labels, num_classes + 1)[..., :-1].double()

    def torchs(x):
        return F.binary_cross_entropy_with_logits(x[counted], wanted[counted], reduction="sum")

    value, gradient = value_and_gradient(lambda x: SigmoidLoss(Focal(0.0))(x, labels, counted), logits)
    exact, exact_gradient = value_and_gradient(torchs, logits.double())
    assert_close(value, exact.float(), rtol=1e-6, atol=0)
    assert_close(gradient, exact_gradient.float(), rtol=1e-6, atol=1e-7)


@each_type
@each_curve
@pytest.mark.parametrize("num_classes", [1, 20])
def test_weights_of_classes(name, num_classes, dtype):
    logits, labels, counted = anchors_to_classify(num_classes, dtype=dtype)
    alpha = alphas(num_classes)
    rule = SigmoidLoss(CURVES[name], alpha=alpha.tolist())
    value, gradient = value_and_gradient(lambda x: 0.3 * rule(x, labels, counted), logits)
    wanted, wanted_gradient = value_and_gradient(
        lambda x: 0.3 * slowly(name, x, labels, counted, alpha, 1 - alpha), logits.double()
    )
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert_close(value, wanted.float(), rtol=1e-5, atol=0)
    assert_close(gradient.double(), wanted_gradient, rtol=ROUNDING[dtype], atol=SMALLEST[dtype])
    assert (gradient[~counted] == 0).all()


@each_type
@each_curve
def test_without_alpha_every_example_weighs_one(name, dtype):
    logits, labels, counted = anchors_to_classify(6, dtype=dtype)
    one = torch.ones(6, dtype=torch.float64)
    value, gradient = value_and_gradient(lambda x: SigmoidLoss(CURVES[name])(x, labels, counted), logits)
    wanted, exact = value_and_gradient(lambda x: slowly(name, x, labels, counted, one, one), logits.double())
    assert_close(value, wanted.float(), rtol=1e-5, atol=0)
    assert_close(gradient.double(), exact, rtol=ROUNDING[dtype], atol=SMALLEST[dtype])
    # Halving is exact in binary.
    half, half_gradient = value_and_gradient(
        lambda x: 2 * SigmoidLoss(CURVES[name], alpha=0.5)(x, labels, counted), logits
    )
    assert torch.equal(value, half) and torch.equal(gradient, half_gradient)


@each_type
def test_one_weight_for_each_class_alike_is_one_number(dtype):
    logits, labels, counted = anchors_to_classify(7, dtype=dtype)
    number = value_and_gradient(lambda x: SigmoidFocal(alpha=0.3)(x, labels, counted), logits)
    listed = value_and_gradient(lambda x: SigmoidFocal(alpha=[0.3] * 7)(x, labels, counted), logits)
    assert_close(listed[0], number[0], rtol=1e-6, atol=0)
    assert_close(listed[1], number[1], rtol=2 * ROUNDING[dtype], atol=SMALLEST[dtype])


@pytest.mark.parametrize("as_list", [False, True])
@each_type
def test_alpha_of_zero_and_one_leave_one_side_out(dtype, as_list):
    logits, labels, counted = anchors_to_classify(4, dtype=dtype)
    is_own = F.one_hot(labels, 5)[..., :-1].bool() & counted[..., None]
    for alpha, learns in ((1.0, is_own), (0.0, ~is_own & counted[..., None])):
        rule = SigmoidFocal(alpha=[alpha] * 4 if as_list else alpha, gamma=0.0)
        _, gradient = value_and_gradient(lambda x, rule=rule: rule(x, labels, counted), logits)
        assert torch.equal(gradient != 0, learns)


def test_a_class_has_its_own_alpha():
    # Class 0 learns from its objects alone, class 1 from everything else alone.
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    rule = SigmoidFocal(alpha=[1.0, 0.0], gamma=0.0)
    value, gradient = value_and_gradient(lambda x: rule(x, labels, torch.ones(3, dtype=torch.bool)), logits)
    assert_close(value, torch.tensor(3 * math.log(2)))
    assert_close(gradient, torch.tensor([[-0.5, 0.5], [0.0, 0.0], [0.0, 0.5]]))


def test_labels_of_other_anchors_are_refused():
    logits, labels, counted = anchors_to_classify(4)
    # As many, but of one image: what is meant cannot be told.
    with pytest.raises(ValueError, match=r"labels have the shape \(300,\), expected \(2, 150\)"):
        SigmoidFocal()(logits, labels.flatten(), counted)
    with pytest.raises(ValueError, match=r"counted have the shape \(150, 2\), expected \(2, 150\)"):
        SigmoidFocal()(logits, labels, counted.T)


def test_weights_for_another_number_of_classes_are_refused():
    logits, labels, counted = anchors_to_classify(4)
    with pytest.raises(ValueError, match="3 weights of classes for 4 classes"):
        SigmoidFocal(alpha=[0.1, 0.2, 0.3])(logits, labels, counted)


@pytest.mark.parametrize("alpha", [None, 0.25, [0.2, 0.5, 1.0]])
@each_curve
def test_gradient_by_finite_differences(name, alpha):
    logits, labels, counted = anchors_to_classify(3, shape=(12,), dtype=torch.float64)
    rule = SigmoidLoss(CURVES[name], alpha=alpha)
    assert torch.autograd.gradcheck(lambda x: rule(x, labels, counted), logits.requires_grad_())


@pytest.mark.parametrize("alpha", [None, [0.25, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_curve
def test_finite_for_wild_logits(name, dtype, alpha):
    logits = torch.tensor([-1e4, -100, 0, 100, 1e4], dtype=dtype)[:, None].expand(5, 2)
    rule, counted = SigmoidLoss(CURVES[name], alpha=alpha), torch.ones(5, dtype=torch.bool)
    for label in (0, 1, 2):
        labels = torch.full((5,), label)
        value, gradient = value_and_gradient(lambda x, y=labels: rule(x, y, counted), logits)
        assert value.isfinite() and value > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("alpha", [None, [0.2, 0.3, 0.4, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_curve
def test_nothing_to_learn_from(name, dtype, alpha):
    logits, labels, counted = anchors_to_classify(4, dtype=dtype)
    rule = SigmoidLoss(CURVES[name], alpha=alpha)
    value, gradient = value_and_gradient(lambda x: rule(x, labels, torch.zeros_like(counted)), logits)
    assert value == 0 and (gradient == 0).all()
    value, gradient = value_and_gradient(lambda x: rule(x, labels[:, :0], counted[:, :0]), logits[:, :0])
    assert value == 0 and gradient.shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@each_curve
def test_what_is_not_a_number_shows(name, dtype):
    logits = torch.tensor([[float("nan"), 0.0]], dtype=dtype)
    rule = SigmoidLoss(CURVES[name], alpha=[0.2, 0.3])
    value, gradient = value_and_gradient(lambda x: rule(x, torch.tensor([2]), torch.tensor([True])), logits)
    assert value.isnan() and gradient[0, 0].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_do_not_show(monkeypatch, dtype):
    logits, labels, counted = anchors_to_classify(7, dtype=dtype)
    rule = SigmoidFocal(alpha=alphas(7).tolist())
    value, gradient = value_and_gradient(lambda x: rule(x, labels, counted), logits)
    monkeypatch.setitem(fused_sigmoid.LOGITS_AT_ONCE, "cpu", 100)  # 14 rows at once: the last chunk is none of the same
    cut, cut_gradient = value_and_gradient(lambda x: rule(x, labels, counted), logits)
    assert_close(cut, value)
    assert_close(cut_gradient, gradient, rtol=1e-6, atol=0)  # the ends of a chunk are not vectorised


@pytest.mark.parametrize("alpha", [None, 0.25, [0.2, 0.3, 0.4, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_curve
def test_the_host_reads_nothing(name, dtype, alpha, host_reads):
    logits, labels, counted = anchors_to_classify(4, dtype=dtype)
    rule = SigmoidLoss(CURVES[name], alpha=alpha)
    with host_reads() as reads:
        value_and_gradient(lambda x: rule(x, labels, counted), logits)
    assert reads == []


def test_nothing_of_the_size_of_the_logits_is_kept_but_the_logits():
    logits, labels, counted = anchors_to_classify(50)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        SigmoidFocal(alpha=alphas(50).tolist())(logits.requires_grad_(), labels, counted)
    others = {x.untyped_storage().data_ptr(): x.nbytes for x in kept}
    others.pop(logits.untyped_storage().data_ptr())
    assert sum(others.values()) < 0.3 * logits.nbytes


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.parametrize("name", ["focal", "focal star", "hinge"])
def test_compiled_is_the_same(name):
    alpha = alphas(11)
    rule = SigmoidLoss(CURVES[name], alpha=alpha.tolist(), compile=True)
    for num_rows in (150, 90):
        logits, labels, counted = anchors_to_classify(11, shape=(2, num_rows))
        value, gradient = value_and_gradient(lambda x, y=labels, c=counted: rule(x, y, c), logits)
        wanted, exact = value_and_gradient(
            lambda x, y=labels, c=counted: slowly(name, x, y, c, alpha, 1 - alpha), logits.double()
        )
        assert_close(value, wanted.float(), rtol=2e-5, atol=0)
        assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-8)
