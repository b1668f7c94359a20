"""Whether scores over a few seeds differ by more than seeds do."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class Summary(NamedTuple):
    mean: float
    deviation: float  # of the sample, over n - 1; nan for a single value
    count: int


class Comparison(NamedTuple):
    difference: float  # of the means
    p: float  # two-sided; nan where the values do not allow a test


def summarise(values: Sequence[float]) -> Summary:
    """At least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Summary(statistics.fmean(values), deviation, len(values))


def welch(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Welch's t-test (1947): two samples, each with a variance of its own, not paired.

    Seeds are not paired: what one seed fixes (first weights, order of images, augmentation) is only a part of what
    makes two runs differ, nothing of it where networks differ, and pairs have half as many degrees of freedom.
    """
    first, second = summarise(values), summarise(others)
    difference = first.mean - second.mean
    if min(first.count, second.count) < 2:
        return Comparison(difference, math.nan)
    a, b = first.deviation**2 / first.count, second.deviation**2 / second.count
    if a + b == 0:  # runs without any spread say nothing about the spread
        return Comparison(difference, math.nan)
    degrees = (a + b) ** 2 / (a**2 / (first.count - 1) + b**2 / (second.count - 1))
    return Comparison(difference, two_sided_p(difference / math.sqrt(a + b), degrees))


def two_sided_p(t: float, degrees: float) -> float:
    """The chance of a value of Student's t at least as far from 0, from 1 degree of freedom upwards.

    With t = sqrt(degrees) cot(angle) the density is sin(angle)^(degrees - 1) up to a constant, and the tail is the
    integral of that from 0 to an angle.
    """
    end = math.atan2(math.sqrt(degrees), abs(t))
    # The angle as end * u^3: smooth at 0 also for a fractional power, as the rule for polynomials needs it.
    u = (_NODES + 1) / 2
    integral = float((_WEIGHTS / 2 * np.sin(end * u**3) ** (degrees - 1) * 3 * end * u**2).sum())
    log_beta = math.lgamma(degrees / 2) + math.lgamma(0.5) - math.lgamma((degrees + 1) / 2)
    return min(1.0, 2 * integral / math.exp(log_beta))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for there being several of them (Holm 1979); nan stays, and is not counted."""
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected


def detectable_difference(deviation: float, count: int, *, level: float = 0.05) -> float:
    """The smallest difference of two means that the test calls significant: `count` runs each, of one deviation."""
    degrees = 2 * (count - 1)
    low, high = 0.0, 1e6
    for _ in range(100):  # halvings
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees) > level else (low, middle)
    return high * deviation * math.sqrt(2 / count)
