"""Statistical significance of score differences over a few seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

SIGNIFICANCE_LEVEL = 0.05  # differences with a lower p-value are significant


class Summary(NamedTuple):
    """Mean and spread of a sample."""

    mean: float
    deviation: float  # sample standard deviation (n - 1); NaN for a single value
    count: int


class Comparison(NamedTuple):
    """Result of testing whether two samples have the same mean."""

    difference: float  # between the means
    p: float  # two-sided p-value; NaN if a test is impossible


def summarise(values: Sequence[float]) -> Summary:
    """Summarise one or more values."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Summary(statistics.fmean(values), deviation, len(values))


def welch(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Welch's t-test (1947) for two unpaired samples with unequal variances.

    Runs are not paired by seed: the seed (initial weights, image order, augmentation) explains only part of the
    variation between runs, and none if the networks differ, while pairing would halve the degrees of freedom.
    """
    first, second = summarise(values), summarise(others)
    difference = first.mean - second.mean
    if min(first.count, second.count) < 2:
        return Comparison(difference, math.nan)
    a, b = first.deviation**2 / first.count, second.deviation**2 / second.count
    if a + b == 0:  # with no spread, the variance cannot be estimated
        return Comparison(difference, math.nan)
    degrees = (a + b) ** 2 / (a**2 / (first.count - 1) + b**2 / (second.count - 1))
    return Comparison(difference, two_sided_p(difference / math.sqrt(a + b), degrees))


def two_sided_p(t: float, degrees: float) -> float:
    """Probability that Student's t is at least as far from 0 as `t`."""
    from scipy.special import stdtr  # imported here because it is slow to import

    return 2 * float(stdtr(degrees, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979); NaN values stay NaN and do not count as comparisons."""
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected


def detectable_difference(deviation: float, count: int, *, level: float = SIGNIFICANCE_LEVEL) -> float:
    """Smallest significant difference between two means, each of `count` runs with the same standard deviation."""
    from scipy.special import stdtrit

    return -float(stdtrit(2 * (count - 1), level / 2)) * deviation * math.sqrt(2 / count)


def p_in_words(p: float) -> str:
    """A p-value such as "p = 0.012", or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
