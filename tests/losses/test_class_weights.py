"""Class weights by inverse frequency, and validation of configured weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.config import CrossEntropyConfig, FocalConfig, HingeConfig, LossConfig, SoftmaxFocalConfig
from retinanet.errors import InputError
from retinanet.losses.class_weights import checked_alpha, inverse_frequency, with_class_weights


def test_inverse_frequency_by_hand():
    # The mean is 40, so 40 / 50, 40 / 60, 40 / 130.
    assert inverse_frequency([10, 20, 90]) == pytest.approx((0.8, 2 / 3, 4 / 13))
    assert inverse_frequency([7]) == inverse_frequency([0]) == (0.5,)
    assert inverse_frequency([3, 3, 3]) == (0.5, 0.5, 0.5)
    assert inverse_frequency([0, 1, 4]) == inverse_frequency([1, 1, 4]) == (2 / 3, 2 / 3, 1 / 3)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_rarer_classes_have_higher_weights_and_odds_inverse_to_their_counts(counts):
    weights = inverse_frequency(counts)
    assert all(0 < weight < 1 for weight in weights)
    by_count = [weight for _, weight in sorted(zip(counts, weights, strict=True))]
    assert by_count == sorted(by_count, reverse=True)
    # Odds times count is the same for all classes.
    odds = [weight / (1 - weight) * max(1, count) for weight, count in zip(weights, counts, strict=True)]
    assert odds == pytest.approx([odds[0]] * len(odds), rel=1e-5)


def test_inverse_frequency_is_replaced_by_numbers_in_the_config():
    focal = LossConfig(classification=FocalConfig(alpha="inverse_frequency", gamma=1.5), box_weight=3.0)
    assert with_class_weights(focal, [10, 20, 90]) == LossConfig(
        classification=FocalConfig(alpha=inverse_frequency([10, 20, 90]), gamma=1.5), box_weight=3.0
    )
    plain = LossConfig(classification=CrossEntropyConfig(alpha="inverse_frequency"))
    assert with_class_weights(plain, [5]).classification == CrossEntropyConfig(alpha=(0.5,))
    softmax = LossConfig(classification=SoftmaxFocalConfig(alpha="inverse_frequency"))
    assert with_class_weights(softmax, [3, 3]).classification == SoftmaxFocalConfig(alpha=(0.5, 0.5))


@pytest.mark.parametrize("classification", [FocalConfig(), FocalConfig(alpha=(0.1, 0.2)), HingeConfig()])
def test_other_configs_are_returned_unchanged(classification):
    cfg = LossConfig(classification=classification)
    assert with_class_weights(cfg, [1, 2, 3]) is cfg


def test_alpha_list_must_have_one_weight_per_class():
    for alpha in (None, 0.3, (0.1, 0.2)):
        assert checked_alpha(FocalConfig(alpha=alpha), 2) == alpha
    assert checked_alpha(FocalConfig(alpha=(0.1, 0.2)), None) == (0.1, 0.2)
    with pytest.raises(InputError, match=r"^loss\.classification\.alpha has 2 values for 3 classes; set one number"):
        checked_alpha(FocalConfig(alpha=(0.1, 0.2)), 3)
    with pytest.raises(InputError, match=r"^loss\.classification\.alpha is inverse_frequency, .* set numbers"):
        checked_alpha(CrossEntropyConfig(alpha="inverse_frequency"), 3)
