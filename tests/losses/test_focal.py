"""`FocalLoss` and `focal_loss`: values and gradients compared with the definition, torch and torchvision."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.testing import assert_close

import retinanet
from retinanet.losses.focal import FocalLoss, InverseFrequency, LabelWeights, focal_loss
from retinanet.losses.sigmoid import SigmoidFocalLoss
from tests.helpers.focal import multi_hot, soft_focal_by_definition, softmax_focal_by_definition
from tests.helpers.gradients import value_and_gradient

pytestmark = pytest.mark.usefixtures("small_chunks")

GAMMAS = [0.1, 0.5, 1, 2, 5]
REDUCTIONS = ["mean", "sum", "none"]


def example(*shape, highest, dtype=torch.float64):
    """Logits (N, C, ...), class indices 0..highest (N, ...) and soft labels (N, C, ...)."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=random, dtype=torch.float64) * 3
    targets = torch.randint(highest + 1, (shape[0], *shape[2:]), generator=random)
    return logits.to(dtype), targets, torch.rand(shape, generator=random, dtype=torch.float64).to(dtype)


def test_public_names_are_the_module_and_the_function():
    assert retinanet.FocalLoss is FocalLoss and retinanet.focal_loss is focal_loss


def test_import_and_use_need_only_torch():
    program = """
import sys, importlib.abc
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"numpy", "pydantic", "torchvision", "hotcoco", "PIL", "yaml", "scipy", "tqdm"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch
from retinanet import FocalLoss, focal_loss
logits = torch.zeros(4, 3, requires_grad=True)
for mode in ("softmax", "sigmoid"):
    FocalLoss(mode)(logits, torch.tensor([0, 1, 2, 0])).backward()
    focal_loss(logits, torch.rand(4, 3), mode, label_smoothing=0.1).backward()
own = {name for name in sys.modules if name.startswith("retinanet.")}
assert all(name == "retinanet.losses" or name.startswith("retinanet.losses.") for name in own), own
"""
    # torch itself warns if NumPy is missing.
    command = [sys.executable, "-W", "ignore:Failed to initialize NumPy", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_softmax_by_hand():
    # Four equal logits give p = 1/4: (3/4)^2 ln 4 = 0.779791. Logits (ln 3, 0) give p = 3/4 and 1/4: ln(4/3) / 16 and
    # ln(4) 9/16; their mean with weights 1/2 and 2 is (0.0089901 + 1.5595810) / 2.5.
    assert_close(focal_loss(torch.zeros(1, 4), torch.tensor([2])), torch.tensor(0.779791))
    odds, targets = torch.tensor([[math.log(3), 0.0]]).repeat(2, 1), torch.tensor([0, 1])
    losses = focal_loss(odds, targets, alpha=[0.5, 2.0], reduction="none")
    assert_close(losses, torch.tensor([0.0089901, 1.5595810]))
    assert_close(focal_loss(odds, targets, alpha=[0.5, 2.0]), torch.tensor(0.6274284))


def test_sigmoid_by_hand():
    # Logits (ln 3, 0) give p = 3/4 and 1/2. Class 0: 0.25 ln(4/3) / 16 and 0.75 ln(2) / 4. No class: 0.75 ln(4) 9/16.
    odds = torch.tensor([[math.log(3), 0.0]]).repeat(2, 1)
    losses = focal_loss(odds, torch.tensor([0, 2]), "sigmoid", alpha=0.25, reduction="none")
    assert_close(losses, torch.tensor([[0.0044950, 0.1299651], [0.5848429, 0.1299651]]))
    by_positives = focal_loss(odds, torch.tensor([0, 2]), "sigmoid", alpha=0.25, normalizer="positives")
    assert_close(by_positives, losses.sum())


@pytest.mark.parametrize("shape", [(60, 5), (4, 5, 6), (3, 5, 2, 3)])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_matches_the_definition(gamma, shape):
    logits, targets, labels = example(*shape, highest=4)
    alpha = [0.2, 1.5, 0.0, 3.0, 0.7]
    for weights in (None, alpha):
        expected = value_and_gradient(
            lambda x, w=weights: softmax_focal_by_definition(x, targets, alpha=w, gamma=gamma), logits
        )
        result = value_and_gradient(
            lambda x, w=weights: focal_loss(x, targets, alpha=w, gamma=gamma, reduction="none"), logits
        )
        assert_close(result, expected)
    soft = value_and_gradient(lambda x: focal_loss(x, labels, gamma=gamma, reduction="none"), logits)
    assert_close(
        soft, value_and_gradient(lambda x: soft_focal_by_definition(x, labels, mode="softmax", gamma=gamma), logits)
    )


@pytest.mark.parametrize("shape", [(60, 5), (4, 5, 6), (3, 5, 2, 3)])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_matches_torchvision_and_the_definition(gamma, shape):
    logits, targets, labels = example(*shape, highest=5)
    hot = multi_hot(targets, 5)
    for alpha in (None, 0.3):
        for reduction in REDUCTIONS:
            expected = value_and_gradient(
                lambda x, a=alpha, r=reduction: torchvision.ops.sigmoid_focal_loss(
                    x, hot, alpha=-1 if a is None else a, gamma=gamma, reduction=r
                ),
                logits,
            )
            for given in (targets, targets.int(), hot, hot.long(), hot.bool()):
                result = value_and_gradient(
                    lambda x, t=given, a=alpha, r=reduction: focal_loss(
                        x, t, "sigmoid", alpha=a, gamma=gamma, reduction=r
                    ),
                    logits,
                )
                assert_close(result, expected)
    soft = value_and_gradient(lambda x: focal_loss(x, labels, "sigmoid", gamma=gamma, reduction="none"), logits)
    assert_close(
        soft, value_and_gradient(lambda x: soft_focal_by_definition(x, labels, mode="sigmoid", gamma=gamma), logits)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [None, 0.25, [0.1, 0.9, 0.5]])
def test_sigmoid_sum_is_the_loss_of_the_detector_bit_for_bit(alpha, dtype):
    logits, targets, _ = example(50, 3, highest=3, dtype=dtype)
    targets[::7] = -100
    detector = SigmoidFocalLoss(alpha=alpha)
    expected = value_and_gradient(lambda x: detector(x, targets.clamp(min=0), targets >= 0), logits)
    result = value_and_gradient(lambda x: focal_loss(x, targets, "sigmoid", alpha=alpha, reduction="sum"), logits)
    assert all(map(torch.equal, result, expected))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_classes_equal_one_sigmoid_of_the_difference(gamma):
    logits, targets, _ = example(40, 2, highest=1)
    difference = logits[:, 1] - logits[:, 0]
    for label in (targets.double(), torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))):
        both = torch.stack([1 - label, label], 1)
        assert_close(focal_loss(logits, both, gamma=gamma), focal_loss(difference, label, "sigmoid", gamma=gamma))


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_label_smoothing_is_the_loss_of_smoothed_labels(gamma, mode):
    logits, targets, _ = example(20, 4, highest=3)
    smoothed = multi_hot(targets, 4) * 0.9 + 0.1 / (4 if mode == "softmax" else 2)
    for reduction in REDUCTIONS:
        result = focal_loss(logits, targets, mode, gamma=gamma, label_smoothing=0.1, reduction=reduction)
        assert_close(result, focal_loss(logits, smoothed, mode, gamma=gamma, reduction=reduction))


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_ignored_targets_are_excluded_from_the_loss_and_the_mean(mode, gamma):
    logits, targets, labels = example(20, 3, highest=2)
    ignored, kept = targets.clone(), torch.arange(20) % 4 > 0
    ignored[~kept] = 255
    for smoothing in (0.0, 0.1):
        for reduction in ("mean", "sum"):
            settings = {"gamma": gamma, "reduction": reduction, "label_smoothing": smoothing}
            expected = focal_loss(logits[kept], targets[kept], mode, **settings)
            value, gradient = value_and_gradient(
                lambda x, s=settings: focal_loss(x, ignored, mode, ignore_index=255, **s), logits
            )
            assert_close(value, expected)
            assert (gradient[~kept] == 0).all() and (gradient[kept] != 0).all()
    if mode == "sigmoid":  # single labels, as with partially annotated images
        labels[::3, 1] = -100
        known = labels >= 0
        assert_close(
            focal_loss(logits, labels, mode, gamma=gamma), focal_loss(logits[known], labels[known], mode, gamma=gamma)
        )


def test_ignored_nan_logits_have_no_effect_on_labels():
    logits = torch.tensor([[math.nan, 1.0], [2.0, math.inf]])
    labels = torch.tensor([[-100.0, 0.5], [1.0, -100.0]])
    value, gradient = value_and_gradient(lambda x: focal_loss(x, labels, "sigmoid"), logits)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (4, 3)])
def test_mean_without_targets_is_zero_with_zero_gradient(shape, gamma, mode):
    logits, targets, labels = example(*shape, highest=2, dtype=torch.float32)
    for target in (torch.full_like(targets, -100), labels if labels.numel() == 0 else None):
        for settings in ({}, {"alpha": [0.1, 0.2, 0.3]}, {"label_smoothing": 0.1}, {"normalizer": 2.0}):
            if target is not None:
                loss = FocalLoss(mode, gamma=gamma, **settings)
                value, gradient = value_and_gradient(loss, logits, target)
                assert value == 0 and (gradient == 0).all() and gradient.shape == shape
    none = focal_loss(logits, targets, mode, gamma=gamma, reduction="none")
    assert none.shape == (targets.shape if mode == "softmax" else logits.shape)


def test_mean_over_classes_of_weight_zero_is_zero():
    for gamma in (0, 2):
        loss = FocalLoss(alpha=[0.0, 1.0, 1.0], gamma=gamma)
        value, gradient = value_and_gradient(loss, torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))
        assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("gamma", [0, 2])
def test_normalizer_replaces_the_count_of_the_mean(gamma):
    logits, targets, labels = example(20, 3, highest=3)
    targets[:3] = -100
    labels[labels < 0.5] = 0
    for target, positives in ((targets, ((targets >= 0) & (targets < 3)).sum()), (labels, (labels > 0).sum())):
        total = focal_loss(logits, target, "sigmoid", gamma=gamma, reduction="sum")
        assert_close(focal_loss(logits, target, "sigmoid", gamma=gamma, normalizer="positives"), total / positives)
        assert_close(focal_loss(logits, target, "sigmoid", gamma=gamma, normalizer=7), total / 7)
    total = focal_loss(logits, targets.clamp(max=2), gamma=gamma, reduction="sum")
    assert_close(focal_loss(logits, targets.clamp(max=2), gamma=gamma, normalizer=7), total / 7)


def test_positives_normalizer_is_one_without_positives():
    logits = torch.zeros(2, 3)
    none = torch.tensor([3, 3])
    assert_close(
        focal_loss(logits, none, "sigmoid", normalizer="positives"),
        focal_loss(logits, none, "sigmoid", reduction="sum"),
    )


def test_inverse_frequency_balances_the_classes():
    # Mean count 40: weights 40 / 10, 40 / 20, 40 / 90; alpha = w / (1 + w).
    counts = [10, 20, 90]
    assert FocalLoss(alpha=InverseFrequency(counts)).alpha == pytest.approx((4, 2, 4 / 9))
    sigmoid = FocalLoss("sigmoid", alpha=InverseFrequency(torch.tensor(counts))).alpha
    assert sigmoid == pytest.approx((0.8, 2 / 3, 4 / 13))
    assert FocalLoss(alpha=InverseFrequency([0, 1])).alpha == (1, 1)


@pytest.mark.parametrize("gamma", [0, 2])
def test_label_weights_multiply_the_losses_of_labels_one_and_zero(gamma):
    logits, targets, _ = example(20, 3, highest=3)
    hot = multi_hot(targets, 3)
    positive, negative = torch.tensor([0.5, 3.0, 0.0]).double(), torch.tensor([2.0, 0.0, 1.0]).double()
    plain = focal_loss(logits, hot, "sigmoid", gamma=gamma, reduction="none")
    alpha = LabelWeights(positive, negative.tolist())
    for given in (targets, hot):
        for reduction, expected in {
            "none": plain * torch.where(hot == 1, positive, negative),
            "sum": (plain * torch.where(hot == 1, positive, negative)).sum(),
        }.items():
            assert_close(focal_loss(logits, given, "sigmoid", alpha=alpha, gamma=gamma, reduction=reduction), expected)


def test_label_weights_equal_the_weights_of_binary_cross_entropy():
    logits, targets, soft = example(20, 3, highest=3)
    weights, hot = torch.tensor([0.5, 3.0, 20.0]).double(), multi_hot(targets, 3)
    expected = F.binary_cross_entropy_with_logits(logits, hot, pos_weight=weights)
    assert_close(focal_loss(logits, targets, "sigmoid", gamma=0, alpha=LabelWeights(weights)), expected)
    for labels in (hot, soft):
        expected = F.binary_cross_entropy_with_logits(logits, labels, weights)
        result = focal_loss(logits, labels, "sigmoid", gamma=0, alpha=LabelWeights(weights, weights))
        assert_close(result, expected)


@pytest.mark.parametrize("alpha", [0.3, [0.3, 0.0, 1.0], InverseFrequency([5, 10, 1])])
def test_alpha_in_sigmoid_mode_is_a_pair_of_label_weights(alpha):
    logits, targets, soft = example(20, 3, highest=3)
    positive = FocalLoss("sigmoid", alpha=alpha).alpha
    negative = tuple(1 - weight for weight in positive) if isinstance(positive, tuple) else 1 - positive
    for given in (targets, soft):
        result = focal_loss(logits, given, "sigmoid", alpha=LabelWeights(positive, negative))
        assert torch.equal(result, focal_loss(logits, given, "sigmoid", alpha=alpha))


def test_one_number_in_softmax_mode_multiplies_the_loss():
    logits, targets, labels = example(20, 3, highest=2)
    for gamma in (0, 2):
        for target in (targets, labels):
            plain = focal_loss(logits, target, gamma=gamma)
            assert_close(focal_loss(logits, target, gamma=gamma, alpha=0.25), plain / 4)


def test_settings_may_be_changed_between_calls():
    logits, targets, _ = example(20, 3, highest=2)
    loss = FocalLoss()
    loss.gamma = 0.0
    assert torch.equal(loss(logits, targets), F.cross_entropy(logits, targets))
    assert repr(FocalLoss("sigmoid", alpha=[0.1, 0.2], normalizer="positives")) == (
        "FocalLoss('sigmoid', alpha=2 weights, gamma=2.0, ignore_index=-100, label_smoothing=0.0, reduction='mean', "
        "normalizer='positives')"
    )
