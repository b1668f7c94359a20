"""Check the arguments of the losses."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any


def check_number(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf, above: bool = False) -> None:
    """Check that an argument is a finite number in `low`..`high`.

    Args:
        above: whether the number must be greater than `low`.

    Raises:
        ValueError: the argument is not a number, or is outside the range.
    """
    if not _is_number(value) or not low <= value <= high or (above and value == low):
        if high < math.inf:
            expected = f"a number in {low:g}..{high:g}"
        else:
            bound = f"above {low:g}" if above else f"of at least {low:g}" if low > -math.inf else ""
            expected = f"a finite number {bound}".strip()
        raise ValueError(f"{name}: found {value!r}, expected {expected}")


def check_alpha(alpha: Any) -> None:
    """Check class weights: a number in 0..1, a sequence of such numbers, or None.

    Raises:
        ValueError: the weights have any other form, such as -1, which disables weighting in torchvision.
    """
    values = alpha if isinstance(alpha, Sequence) and alpha else [alpha]
    if alpha is not None and not all(_is_number(value) and 0 <= value <= 1 for value in values):
        raise ValueError(
            f"alpha: found {alpha!r}, expected a number in 0..1, one such number per class, or None for no weighting"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
