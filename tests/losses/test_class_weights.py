"""Class weights by inverse frequency."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.losses.class_weights import inverse_frequency


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
