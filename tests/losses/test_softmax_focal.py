"""`SoftmaxFocalLoss`, the class loss of a head with a background logit."""

import pytest
import torch
import torchvision
from torch.testing import assert_close

from retinanet.losses.softmax_focal import SoftmaxFocalLoss
from tests.helpers.focal import softmax_focal_by_definition
from tests.helpers.gradients import value_and_gradient

pytestmark = pytest.mark.usefixtures("small_chunks")


def anchors_to_classify(num_classes, *, shape=(2, 50), dtype=torch.float64):
    """Logits (..., K + 1), labels with K for background, and valid mask."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, num_classes + 1, generator=generator, dtype=torch.float64) * 3
    draw = torch.rand(shape, generator=generator)
    labels = torch.where(draw < 0.4, torch.randint(num_classes, shape, generator=generator), num_classes)
    return logits.to(dtype), labels, (draw < 0.3) | (draw > 0.5)


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
def test_sum_over_valid_anchors_matches_the_formula(gamma, alpha, weights):
    logits, labels, valid = anchors_to_classify(3)
    loss = SoftmaxFocalLoss(alpha=alpha, gamma=gamma)

    def expected(x):
        return softmax_focal_by_definition(x[valid], labels[valid], alpha=weights, gamma=gamma).sum()

    result = value_and_gradient(lambda x: loss(x, labels, valid), logits)
    assert_close(result, value_and_gradient(expected, logits), rtol=1e-6, atol=1e-9)
    assert (result[1][~valid] == 0).all() and valid.any() and not valid.all()


def test_labels_of_the_wrong_shape_are_rejected():
    logits, labels, valid = anchors_to_classify(3)
    with pytest.raises(ValueError, match=r"labels: found shape \(100,\), expected \(2, 50\)"):
        SoftmaxFocalLoss()(logits, labels.flatten(), valid)


def test_one_class_against_background_equals_the_sigmoid_focal_loss():
    logits, labels, valid = anchors_to_classify(1)
    difference = logits[..., 0] - logits[..., 1]
    expected = torchvision.ops.sigmoid_focal_loss(difference, (labels == 0).double(), alpha=0.25, gamma=2.0)
    assert_close(SoftmaxFocalLoss(alpha=0.25)(logits, labels, valid), expected[valid].sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_logits_and_no_valid_anchors(dtype, host_reads):
    logits, labels, valid = anchors_to_classify(4, dtype=dtype)
    loss = SoftmaxFocalLoss(alpha=0.25)
    with host_reads() as reads:
        value, gradient = value_and_gradient(lambda x: loss(x, labels, valid), logits)
    assert reads == []
    assert value.dtype == torch.float32 and gradient.dtype == dtype and value > 0
    value, gradient = value_and_gradient(lambda x: loss(x, labels, torch.zeros_like(valid)), logits)
    assert value == 0 and (gradient == 0).all()
    value, _ = value_and_gradient(lambda x: loss(x, labels[:, :0], valid[:, :0]), logits[:, :0])
    assert value == 0


def test_wrong_number_of_alphas_is_rejected():
    logits, labels, valid = anchors_to_classify(3)
    with pytest.raises(ValueError, match="class weights: found 2 values for 3 classes"):
        SoftmaxFocalLoss(alpha=(0.1, 0.2))(logits, labels, valid)
