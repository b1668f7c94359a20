"""The fused kernel compared with its reference, `sigmoid_loss`, for every margin loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.losses import chunking
from retinanet.losses.margin import FocalMargin, FocalStarMargin
from retinanet.losses.sigmoid import SigmoidFocalLoss, SigmoidMarginLoss
from retinanet.losses.sigmoid_reference import sigmoid_loss
from tests.helpers.gradients import value_and_gradient
from tests.helpers.margin import MARGIN_LOSSES, by_definition

each_margin_loss = pytest.mark.parametrize("name", MARGIN_LOSSES)
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
# A gradient rounded once to the dtype of the logits is within half a unit in the last place of the exact one.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
SMALLEST = {torch.float32: 1e-8, torch.bfloat16: 1e-8, torch.float16: 2**-25}


def anchors_to_classify(num_classes, *, shape=(2, 150), dtype=torch.float32):
    """Logits, labels and valid mask; a fifth of the anchors have a class, a fifth are ignored."""
    generator = torch.Generator().manual_seed(num_classes)
    logits = (torch.randn(*shape, num_classes, generator=generator) * 3 - 1).to(dtype)
    draw = torch.rand(shape, generator=generator)
    labels = torch.where(draw < 0.2, torch.randint(num_classes, shape, generator=generator), num_classes)
    return logits, labels, (draw < 0.1) | (draw > 0.3)


def alphas(num_classes):
    """One alpha per class, (K,) float64."""
    return (
        torch.linspace(0.1, 0.9, num_classes, dtype=torch.float64) if num_classes > 1 else torch.tensor([0.7]).double()
    )


def by_reference(name, logits, labels, valid, target_weight, background_weight):
    """`sigmoid_loss` with the definition of a margin loss and weights (K,)."""
    return sigmoid_loss(
        logits,
        labels,
        valid,
        target_loss=lambda x: target_weight * by_definition(name, torch.sigmoid(x)),
        background_loss=lambda x: background_weight * by_definition(name, 1 - torch.sigmoid(x)),
    )


def test_reference_by_hand():
    # Labels 0, none and 1, with the last anchor ignored: target logit 1, and background logits 2, 3 and 4.
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    labels, valid = torch.tensor([0, 2, 1]), torch.tensor([True, True, False])
    value = sigmoid_loss(logits, labels, valid, target_loss=lambda x: 100 * x, background_loss=lambda x: x**2)
    assert value == 100 + 4 + 9 + 16


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(MARGIN_LOSSES)),
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(1, 6),
    num_anchors=st.integers(0, 20),
    alpha=st.one_of(st.none(), st.floats(0, 1), st.just("per class")),
    chunk=st.sampled_from([1, 7, 2**18]),
)
def test_kernel_equals_the_reference(name, seed, num_classes, num_anchors, alpha, chunk):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_anchors, num_classes, generator=generator, dtype=torch.float64) * 4
    labels = torch.randint(num_classes + 1, (num_anchors,), generator=generator)
    valid = torch.rand(num_anchors, generator=generator) < 0.7
    alpha = alphas(num_classes).tolist() if alpha == "per class" else alpha
    target_weight = torch.tensor(1.0 if alpha is None else alpha, dtype=torch.float64)
    background_weight = torch.ones(()) if alpha is None else 1 - target_weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunking.LOGITS_AT_ONCE, "cpu", chunk)
        result = value_and_gradient(SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=alpha), logits, labels, valid)
    expected = value_and_gradient(
        lambda x: by_reference(name, x, labels, valid, target_weight, background_weight), logits
    )
    assert_close(result, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_small_losses_of_easy_objects_keep_their_precision(gamma, alpha):
    # As background, each loss would be 10 to 1e4; adding and subtracting that would leave a rounding error.
    logits = torch.full((300, 5), -12.0)
    logits[:, 2] = torch.linspace(10, 15, 300)
    logits[0] = torch.tensor([1e4, 0.0, 1e4, -1e4, 0.0])
    labels, valid = torch.full((300,), 2), torch.ones(300, dtype=torch.bool)
    value = SigmoidFocalLoss(alpha=alpha, gamma=gamma)(logits, labels, valid)
    is_target = F.one_hot(labels, 5).bool()
    z = torch.where(is_target, -logits, logits).double()
    losses = torch.sigmoid(z) ** gamma * F.softplus(z) * torch.where(is_target, alpha, 1 - alpha)
    assert_close(value.double(), losses.sum(), rtol=1e-5, atol=0)
    easy = SigmoidFocalLoss(alpha=alpha, gamma=gamma)(logits[1:], labels[1:], valid[1:])
    assert easy > 0
    assert_close(easy.double(), losses[1:].sum(), rtol=1e-5, atol=0)


def test_focal_star_with_gamma_one_is_cross_entropy():
    logits, labels, valid = anchors_to_classify(5)
    star = value_and_gradient(lambda x: SigmoidMarginLoss(FocalStarMargin(1.0, 0.0))(x, labels, valid), logits)
    plain = value_and_gradient(lambda x: SigmoidMarginLoss(FocalMargin(0.0))(x, labels, valid), logits)
    assert_close(star, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("num_classes", [1, 2, 90])
def test_cross_entropy_equals_torchs(num_classes):
    logits, labels, valid = anchors_to_classify(num_classes)
    targets = F.one_hot(labels, num_classes + 1)[..., :-1].double()

    def torchs(x):
        return F.binary_cross_entropy_with_logits(x[valid], targets[valid], reduction="sum")

    value, gradient = value_and_gradient(lambda x: SigmoidMarginLoss(FocalMargin(0.0))(x, labels, valid), logits)
    exact, exact_gradient = value_and_gradient(torchs, logits.double())
    assert_close(value, exact.float(), rtol=1e-6, atol=0)
    assert_close(gradient, exact_gradient.float(), rtol=1e-6, atol=1e-7)


@each_type
@each_margin_loss
@pytest.mark.parametrize("num_classes", [1, 20])
def test_alpha_per_class_equals_the_reference(name, num_classes, dtype):
    logits, labels, valid = anchors_to_classify(num_classes, dtype=dtype)
    alpha = alphas(num_classes)
    loss = SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=alpha.tolist())
    value, gradient = value_and_gradient(lambda x: 0.3 * loss(x, labels, valid), logits)
    expected, expected_gradient = value_and_gradient(
        lambda x: 0.3 * by_reference(name, x, labels, valid, alpha, 1 - alpha), logits.double()
    )
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert_close(value, expected.float(), rtol=1e-5, atol=0)
    assert_close(gradient.double(), expected_gradient, rtol=ROUNDING[dtype], atol=SMALLEST[dtype])
    assert (gradient[~valid] == 0).all()


@each_type
@each_margin_loss
def test_without_alpha_every_logit_has_weight_one(name, dtype):
    logits, labels, valid = anchors_to_classify(6, dtype=dtype)
    one = torch.ones(6, dtype=torch.float64)
    value, gradient = value_and_gradient(lambda x: SigmoidMarginLoss(MARGIN_LOSSES[name])(x, labels, valid), logits)
    expected, exact = value_and_gradient(lambda x: by_reference(name, x, labels, valid, one, one), logits.double())
    assert_close(value, expected.float(), rtol=1e-5, atol=0)
    assert_close(gradient.double(), exact, rtol=ROUNDING[dtype], atol=SMALLEST[dtype])
    # Halving is exact in binary.
    half, half_gradient = value_and_gradient(
        lambda x: 2 * SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=0.5)(x, labels, valid), logits
    )
    assert torch.equal(value, half) and torch.equal(gradient, half_gradient)


@each_type
def test_equal_alphas_per_class_equal_one_alpha(dtype):
    logits, labels, valid = anchors_to_classify(7, dtype=dtype)
    number = value_and_gradient(lambda x: SigmoidFocalLoss(alpha=0.3)(x, labels, valid), logits)
    listed = value_and_gradient(lambda x: SigmoidFocalLoss(alpha=[0.3] * 7)(x, labels, valid), logits)
    assert_close(listed[0], number[0], rtol=1e-6, atol=0)
    assert_close(listed[1], number[1], rtol=2 * ROUNDING[dtype], atol=SMALLEST[dtype])


@pytest.mark.parametrize("as_list", [False, True])
@each_type
def test_alpha_zero_and_one_remove_targets_and_background(dtype, as_list):
    logits, labels, valid = anchors_to_classify(4, dtype=dtype)
    is_target = F.one_hot(labels, 5)[..., :-1].bool() & valid[..., None]
    for alpha, has_gradient in ((1.0, is_target), (0.0, ~is_target & valid[..., None])):
        loss = SigmoidFocalLoss(alpha=[alpha] * 4 if as_list else alpha, gamma=0.0)
        _, gradient = value_and_gradient(lambda x, loss=loss: loss(x, labels, valid), logits)
        assert torch.equal(gradient != 0, has_gradient)


def test_alpha_per_class_by_hand():
    # Class 0 is trained only on its objects, class 1 only on everything else.
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    loss = SigmoidFocalLoss(alpha=[1.0, 0.0], gamma=0.0)
    value, gradient = value_and_gradient(lambda x: loss(x, labels, torch.ones(3, dtype=torch.bool)), logits)
    assert_close(value, torch.tensor(3 * math.log(2)))
    assert_close(gradient, torch.tensor([[-0.5, 0.5], [0.0, 0.0], [0.0, 0.5]]))


def test_labels_and_mask_of_the_wrong_shape_are_rejected():
    logits, labels, valid = anchors_to_classify(4)
    # The number of labels is right, but the batch dimension is missing: ambiguous.
    with pytest.raises(ValueError, match=r"labels: found shape \(300,\), expected \(2, 150\)"):
        SigmoidFocalLoss()(logits, labels.flatten(), valid)
    with pytest.raises(ValueError, match=r"valid: found shape \(150, 2\), expected \(2, 150\)"):
        SigmoidFocalLoss()(logits, labels, valid.T)


def test_wrong_number_of_alphas_is_rejected():
    logits, labels, valid = anchors_to_classify(4)
    with pytest.raises(ValueError, match="class weights: found 3 values for 4 classes; pass one per class"):
        SigmoidFocalLoss(alpha=[0.1, 0.2, 0.3])(logits, labels, valid)


@pytest.mark.parametrize("alpha", [None, 0.25, [0.2, 0.5, 1.0]])
@each_margin_loss
def test_gradient_matches_finite_differences(name, alpha):
    logits, labels, valid = anchors_to_classify(3, shape=(12,), dtype=torch.float64)
    loss = SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=alpha)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, valid), logits.requires_grad_())


@pytest.mark.parametrize("alpha", [None, [0.25, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_margin_loss
def test_extreme_logits_have_a_finite_loss_and_gradient(name, dtype, alpha):
    logits = torch.tensor([-1e4, -100, 0, 100, 1e4], dtype=dtype)[:, None].expand(5, 2)
    loss, valid = SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=alpha), torch.ones(5, dtype=torch.bool)
    for label in (0, 1, 2):
        labels = torch.full((5,), label)
        value, gradient = value_and_gradient(lambda x, y=labels: loss(x, y, valid), logits)
        assert value.isfinite() and value > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("alpha", [None, [0.2, 0.3, 0.4, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_margin_loss
def test_loss_and_gradient_are_zero_without_valid_anchors(name, dtype, alpha):
    logits, labels, valid = anchors_to_classify(4, dtype=dtype)
    loss = SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=alpha)
    value, gradient = value_and_gradient(lambda x: loss(x, labels, torch.zeros_like(valid)), logits)
    assert value == 0 and (gradient == 0).all()
    value, gradient = value_and_gradient(lambda x: loss(x, labels[:, :0], valid[:, :0]), logits[:, :0])
    assert value == 0 and gradient.shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@each_margin_loss
def test_nan_logit_makes_loss_and_gradient_nan(name, dtype):
    logits = torch.tensor([[float("nan"), 0.0]], dtype=dtype)
    loss = SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=[0.2, 0.3])
    value, gradient = value_and_gradient(lambda x: loss(x, torch.tensor([2]), torch.tensor([True])), logits)
    assert value.isnan() and gradient[0, 0].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunk_size_does_not_change_the_result(monkeypatch, dtype):
    logits, labels, valid = anchors_to_classify(7, dtype=dtype)
    loss = SigmoidFocalLoss(alpha=alphas(7).tolist())
    value, gradient = value_and_gradient(lambda x: loss(x, labels, valid), logits)
    monkeypatch.setitem(chunking.LOGITS_AT_ONCE, "cpu", 100)  # 14 rows at once: the last chunk is smaller
    chunked, chunked_gradient = value_and_gradient(lambda x: loss(x, labels, valid), logits)
    assert_close(chunked, value)
    assert_close(chunked_gradient, gradient, rtol=1e-6, atol=0)  # the last elements of a chunk are not vectorised


@pytest.mark.parametrize("alpha", [None, 0.25, [0.2, 0.3, 0.4, 0.5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_margin_loss
def test_loss_does_not_wait_for_the_device(name, dtype, alpha, host_reads):
    logits, labels, valid = anchors_to_classify(4, dtype=dtype)
    loss = SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=alpha)
    with host_reads() as reads:
        value_and_gradient(lambda x: loss(x, labels, valid), logits)
    assert reads == []


def test_only_the_logits_are_saved_at_full_size():
    logits, labels, valid = anchors_to_classify(50)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        SigmoidFocalLoss(alpha=alphas(50).tolist())(logits.requires_grad_(), labels, valid)
    others = {x.untyped_storage().data_ptr(): x.nbytes for x in saved}
    others.pop(logits.untyped_storage().data_ptr())
    assert sum(others.values()) < 0.3 * logits.nbytes


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.parametrize("name", ["focal", "focal star", "hinge"])
def test_compiled_equals_the_reference(name):
    alpha = alphas(11)
    loss = SigmoidMarginLoss(MARGIN_LOSSES[name], alpha=alpha.tolist(), compile=True)
    for num_rows in (150, 90):
        logits, labels, valid = anchors_to_classify(11, shape=(2, num_rows))
        value, gradient = value_and_gradient(lambda x, y=labels, v=valid: loss(x, y, v), logits)
        expected, exact = value_and_gradient(
            lambda x, y=labels, v=valid: by_reference(name, x, y, v, alpha, 1 - alpha), logits.double()
        )
        assert_close(value, expected.float(), rtol=2e-5, atol=0)
        assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-8)
