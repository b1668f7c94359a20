import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from retinanet.losses.focal import SigmoidFocal
from retinanet.losses.quality import QualityFocal, Varifocal
from tests.gradients import value_and_gradient

LOSSES = {
    "quality focal": QualityFocal(),
    "quality focal, beta 0": QualityFocal(beta=0.0),
    "quality focal, beta 0.5": QualityFocal(beta=0.5),
    "varifocal": Varifocal(),
    "varifocal, alpha 1.5": Varifocal(alpha=1.5, gamma=0.5),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
SMALLEST = {torch.float32: 1e-8, torch.bfloat16: 1e-8, torch.float16: 2**-25}


def case(num_classes, *, shape=(2, 150), dtype=torch.float32):
    """Logits, labels, which count, and qualities of which some are 0 and some are 1."""
    generator = torch.Generator().manual_seed(num_classes)
    logits = (torch.randn(*shape, num_classes, generator=generator) * 3 - 1).to(dtype)
    lot = torch.rand(shape, generator=generator)
    labels = torch.where(lot < 0.4, torch.randint(num_classes, shape, generator=generator), num_classes)
    quality = (torch.rand(shape, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return logits, labels, (lot < 0.3) | (lot > 0.5), quality


def by_definition(name, p, y):
    """As the papers write them, of probabilities and dense targets in float64."""
    cross_entropy = -y * p.log() - (1 - y) * (1 - p).log()
    return {
        "quality focal": lambda: (y - p).abs() ** 2 * cross_entropy,
        "quality focal, beta 0": lambda: cross_entropy,
        "quality focal, beta 0.5": lambda: (y - p).abs() ** 0.5 * cross_entropy,
        "varifocal": lambda: torch.where(y > 0, y * cross_entropy, -0.75 * p**2 * (1 - p).log()),
        "varifocal, alpha 1.5": lambda: torch.where(y > 0, y * cross_entropy, -1.5 * p**0.5 * (1 - p).log()),
    }[name]()


def test_quality_focal_by_hand():
    # p = 0.5 everywhere. Own class, quality 0.8: |0.8 - 0.5|^2 ln 2; another class: 0.5^2 ln 2.
    loss = QualityFocal()
    logits, yes = torch.zeros(1, 2), torch.tensor([True])
    value, gradient = value_and_gradient(lambda x: loss(x, torch.tensor([1]), yes, torch.tensor([0.8])), logits)
    assert_close(value, torch.tensor((0.09 + 0.25) * math.log(2)))
    # 2 * 0.5 * 0.25 ln 2 + 0.25 * 0.5, and -(2 * 0.3 * 0.25 ln 2 + 0.09 * 0.3)
    assert_close(gradient, torch.tensor([[0.25 * math.log(2) + 0.125, -0.15 * math.log(2) - 0.027]]))


def test_varifocal_by_hand():
    # Own class, quality 0.8: 0.8 ln 2, with slope 0.8 (0.5 - 0.8); another class: 0.75 * 0.25 ln 2.
    loss = Varifocal()
    logits, yes = torch.zeros(1, 2), torch.tensor([True])
    value, gradient = value_and_gradient(lambda x: loss(x, torch.tensor([1]), yes, torch.tensor([0.8])), logits)
    assert_close(value, torch.tensor((0.8 + 0.1875) * math.log(2)))
    assert_close(gradient[0, 1], torch.tensor(-0.24))


@each_type
@each_loss
@pytest.mark.parametrize("num_classes", [1, 20])
def test_sum_is_that_of_the_definition(name, num_classes, dtype):
    logits, labels, counted, quality = case(num_classes, dtype=dtype)
    targets = F.one_hot(labels, num_classes + 1)[..., :-1] * quality.double()[..., None]

    def slowly(x):
        return 0.3 * by_definition(name, torch.sigmoid(x), targets)[counted].sum()

    value, gradient = value_and_gradient(lambda x: 0.3 * LOSSES[name](x, labels, counted, quality), logits)
    wanted, exact = value_and_gradient(slowly, logits.double())
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert_close(value, wanted.float(), rtol=1e-5, atol=0)
    assert_close(gradient.double(), exact, rtol=ROUNDING[dtype], atol=10 * SMALLEST[dtype])
    assert (gradient[~counted] == 0).all()


def test_quality_focal_of_perfect_boxes_is_the_focal_loss():
    logits, labels, counted, quality = case(5)
    soft = value_and_gradient(lambda x: QualityFocal()(x, labels, counted, torch.ones_like(quality)), logits)
    hard = value_and_gradient(lambda x: SigmoidFocal(alpha=None)(x, labels, counted), logits)
    assert_close(soft, hard, rtol=1e-5, atol=1e-6)


def test_quality_focal_with_beta_zero_is_cross_entropy_with_soft_targets():
    logits, labels, counted, quality = case(5)
    targets = F.one_hot(labels, 6)[..., :-1] * quality[..., None]
    soft = value_and_gradient(lambda x: QualityFocal(beta=0.0)(x, labels, counted, quality), logits)
    torchs = value_and_gradient(
        lambda x: F.binary_cross_entropy_with_logits(x[counted], targets[counted], reduction="sum"), logits
    )
    assert_close(soft, torchs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [QualityFocal(), Varifocal()])
def test_boxes_that_miss_their_object_are_background(loss):
    logits, labels, counted, quality = case(5)
    missed = value_and_gradient(lambda x: loss(x, labels, counted, torch.zeros_like(quality)), logits)
    nothing = value_and_gradient(lambda x: loss(x, torch.full_like(labels, 5), counted, quality), logits)
    assert_close(missed, nothing, rtol=1e-5, atol=1e-6)


@each_loss
def test_a_score_that_is_the_quality_is_left_alone(name):
    quality = torch.tensor([0.3, 0.5, 0.9])
    logits, labels = torch.logit(quality)[:, None], torch.zeros(3, dtype=torch.int64)
    _, gradient = value_and_gradient(lambda x: LOSSES[name](x, labels, labels == 0, quality), logits)
    # To rounding, where the power of quality focal is as steep as it is near nothing.
    assert_close(gradient, torch.zeros(3, 1), rtol=0, atol=1e-3 if name.endswith("0.5") else 1e-6)


@each_loss
def test_gradient_by_finite_differences(name):
    logits, labels, counted, quality = case(3, shape=(12,), dtype=torch.float64)
    quality = quality.double()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels, counted, quality), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_loss
def test_finite_for_wild_logits(name, dtype):
    logits = torch.tensor([-1e4, -100, 0, 100, 1e4], dtype=dtype)[:, None].expand(5, 2)
    labels = torch.zeros(5, dtype=torch.int64)
    for quality in (0.0, 0.5, 1.0):
        qualities = torch.full((5,), quality)
        value, gradient = value_and_gradient(lambda x, q=qualities: LOSSES[name](x, labels, labels == 0, q), logits)
        assert value.isfinite() and value > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_loss
def test_nothing_to_learn_from(name, dtype):
    logits, labels, counted, quality = case(4, dtype=dtype)
    loss = LOSSES[name]
    value, gradient = value_and_gradient(lambda x: loss(x, labels, torch.zeros_like(counted), quality), logits)
    assert value == 0 and (gradient == 0).all()
    value, gradient = value_and_gradient(
        lambda x: loss(x, labels[:, :0], counted[:, :0], quality[:, :0]), logits[:, :0]
    )
    assert value == 0 and gradient.shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_loss
def test_the_host_reads_nothing(name, dtype, host_reads):
    logits, labels, counted, quality = case(4, dtype=dtype)
    with host_reads() as reads:
        value_and_gradient(lambda x: LOSSES[name](x, labels, counted, quality), logits)
    assert reads == []


@pytest.mark.slow  # half a minute of compiling
def test_compiled_is_the_same():
    logits, labels, counted, quality = case(11)
    for compiled, eager in ((QualityFocal(compile=True), QualityFocal()), (Varifocal(compile=True), Varifocal())):
        ours = value_and_gradient(lambda x, loss=compiled: loss(x, labels, counted, quality), logits)
        assert_close(ours, value_and_gradient(lambda x, loss=eager: loss(x, labels, counted, quality), logits))
