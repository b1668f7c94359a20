import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.evaluation.significance import (
    detectable_difference,
    holm,
    seeds_in_words,
    summarise,
    two_sided_p,
    welch,
)


def p_by_sums(t: float, degrees: float) -> float:
    """Two-sided p by summing the density of Student's t on a fine grid."""
    x = np.linspace(-2000, 2000, 4_000_001)
    density = (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    return float(1 - density[np.abs(x) < abs(t)].sum() / density.sum())


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 7.0, 40.0, 1000.0])
def test_p_matches_the_closed_forms_of_1_2_and_4_degrees(t):
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-9)  # Cauchy
    assert two_sided_p(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9, abs=1e-15)
    u = t / math.sqrt(4 + t * t)
    assert two_sided_p(t, 4) == pytest.approx(1 - (3 * u - u**3) / 2, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("t", "degrees"), [(1.5, 2.94), (-2.0, 3.3), (3.1, 7.7), (0.2, 55.5)])
def test_p_of_fractional_degrees(t, degrees):
    assert two_sided_p(t, degrees) == pytest.approx(p_by_sums(t, degrees), abs=2e-3)


@pytest.mark.parametrize("degrees", [3e3, 1e5, 1e9])
@pytest.mark.parametrize("t", [0.5, 2.0, 3.5])
def test_p_of_many_degrees_matches_the_expansion_around_the_normal_distribution(t, degrees):
    # P(|T| > t) = P(|Z| > t) + phi(t) (t^3 + t) / (2 degrees) + O(1 / degrees^2) (Fisher 1925).
    density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    expected = math.erfc(t / math.sqrt(2)) + density * (t**3 + t) / (2 * degrees)
    assert two_sided_p(t, degrees) == pytest.approx(expected, rel=1e-4)


@settings(deadline=None)
@given(st.floats(0, 1e4), st.floats(0.01, 100), st.floats(1, 1e6))
def test_p_decreases_from_1_and_is_symmetric(t, more, degrees):
    assert two_sided_p(0.0, degrees) == pytest.approx(1.0)
    assert 0 <= two_sided_p(t + more, degrees) <= two_sided_p(t, degrees) + 1e-12 <= 1 + 1e-9
    assert two_sided_p(-t, degrees) == two_sided_p(t, degrees)


def test_welch_matches_a_hand_computed_example():
    # Means 2 and 4, variances 1 and 4: t = -2 / sqrt(1/3 + 4/3) = -1.549193, and
    # (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 2.941176 degrees of freedom.
    result = welch([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert result.difference == pytest.approx(-2.0)
    assert result.p == pytest.approx(two_sided_p(1.549193, 2.941176), rel=1e-5)
    assert result.p == pytest.approx(p_by_sums(1.549193, 2.941176), abs=2e-3)


def test_samples_that_allow_no_test_give_nan():
    assert math.isnan(welch([1.0], [2.0, 3.0]).p)
    assert math.isnan(welch([1.0, 1.0], [2.0, 2.0]).p)  # no spread
    assert welch([1.0], [2.0, 3.0]).difference == -1.5
    assert math.isnan(summarise([3.0]).deviation)
    assert summarise([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)), 2)


def test_holm_matches_a_hand_computed_example():
    # In order .01, .03, .04: times 3, 2, 1 gives .03, .06, .04, made non-decreasing.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    corrected = holm([0.5, math.nan, 0.9])  # NaN does not count as a comparison
    assert corrected[0] == 1.0 and math.isnan(corrected[1]) and corrected[2] == 1.0
    assert holm([]) == []


def test_detectable_difference_matches_a_hand_computed_example():
    # Four degrees of freedom: t = 2.776445, times sqrt(2 / 3).
    assert detectable_difference(1.0, 3) == pytest.approx(2.266958, rel=1e-5)


@settings(deadline=None)
@given(st.integers(2, 12), st.floats(0.01, 10))
def test_detectable_difference_is_exactly_at_the_significance_level(count, scale):
    values = [scale * (index - (count - 1) / 2) for index in range(count)]
    least = detectable_difference(summarise(values).deviation, count)
    assert welch([value + least for value in values], values).p == pytest.approx(0.05, rel=1e-4)


def test_seeds_in_words_names_the_better_configuration():
    # Welch's t of means 40 and 41 with deviations 0.1: 1 / sqrt(2 * 0.01 / 3) = 12.25, 4 degrees: p = 0.000255.
    worse, better = [0.399, 0.400, 0.401], [0.409, 0.410, 0.411]
    means = "40.0 ± 0.1 AP (old, 3 seeds) and 41.0 ± 0.1 AP (new, 3 seeds)."
    assert seeds_in_words(("old", "new"), worse, better) == f"new is better than old by 1.0 AP (p < 0.001): {means}"
    swapped = seeds_in_words(("new", "old"), better, worse)
    assert swapped.startswith("new is better than old by 1.0 AP (p < 0.001): 41.0 ± 0.1 AP (new, 3 seeds) and ")


def test_seeds_in_words_states_what_would_not_be_seen():
    # Means 40 and 40.5, deviations 1: t = 0.5 / sqrt(2 / 3) = 0.612, 4 degrees, p = 0.573; 2.27 as below.
    sentence = seeds_in_words(("a", "b"), [0.39, 0.40, 0.41], [0.395, 0.405, 0.415])
    assert sentence == (
        "No difference can be shown between 40.0 ± 1.0 AP (a, 3 seeds) and 40.5 ± 1.0 AP (b, 3 seeds) (p = 0.573). "
        "With 3 seeds of each, a difference below 2.3 AP would not be seen."
    )


def test_seeds_in_words_of_single_runs_test_nothing():
    sentence = seeds_in_words(("a", "b"), [0.4], [0.41, 0.42])
    assert sentence.startswith("No difference can be tested between 40.0 AP (a, 1 seed) and 41.5 ± 0.7 AP (b, 2 seeds)")
