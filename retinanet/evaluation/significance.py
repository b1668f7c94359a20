"""Significance of score differences between runs over a few seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class Summary(NamedTuple):
    """Mean and spread of a sample."""

    mean: float
    deviation: float  # sample standard deviation (n - 1); NaN for a single value
    count: int


class Comparison(NamedTuple):
    """Difference of two samples and its p value."""

    difference: float  # of the means
    p: float  # two-sided; NaN if the values allow no test


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and size of a sample of at least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Summary(statistics.fmean(values), deviation, len(values))


def welch(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Welch's t-test (1947) for two unpaired samples with different variances.

    Runs with the same seed are not treated as pairs: the seed fixes initial weights, image order and augmentation,
    which is only part of the difference between runs, and no part of it if the networks differ. Pairs would also halve
    the degrees of freedom.
    """
    first, second = summarise(values), summarise(others)
    difference = first.mean - second.mean
    if min(first.count, second.count) < 2:
        return Comparison(difference, math.nan)
    a, b = first.deviation**2 / first.count, second.deviation**2 / second.count
    if a + b == 0:  # without any spread the variance cannot be estimated
        return Comparison(difference, math.nan)
    degrees = (a + b) ** 2 / (a**2 / (first.count - 1) + b**2 / (second.count - 1))
    return Comparison(difference, two_sided_p(difference / math.sqrt(a + b), degrees))


def two_sided_p(t: float, degrees: float) -> float:
    """Probability that |T| >= |t| for Student's t distribution with at least 1 degree of freedom.

    With t = sqrt(degrees) cot(angle) the density is proportional to sin(angle)^(degrees - 1), and the tail is its
    integral from 0 to that angle.
    """
    end = math.atan2(math.sqrt(degrees), abs(t))
    # Substitute angle = end * u^3: Gauss-Legendre quadrature needs an integrand that is smooth at 0, for fractional
    # powers as well.
    u = (_NODES + 1) / 2
    integral = float((_WEIGHTS / 2 * np.sin(end * u**3) ** (degrees - 1) * 3 * end * u**2).sum())
    log_beta = math.lgamma(degrees / 2) + math.lgamma(0.5) - math.lgamma((degrees + 1) / 2)
    return min(1.0, 2 * integral / math.exp(log_beta))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple comparisons (Holm 1979); NaN stays NaN and is not counted."""
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected


def detectable_difference(deviation: float, count: int, *, level: float = 0.05) -> float:
    """The smallest significant difference between the means of two samples of size `count` with equal deviation."""
    degrees = 2 * (count - 1)
    low, high = 0.0, 1e6
    for _ in range(100):  # halvings
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees) > level else (low, middle)
    return high * deviation * math.sqrt(2 / count)
