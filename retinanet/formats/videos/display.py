"""Rotate and flip decoded frames as players show them."""

from collections.abc import Sequence

from torch import Tensor


def displayed(pixels: Tensor, matrix: Sequence[int]) -> Tensor:
    """Rotate and flip pixels (C, H, W) as a display matrix says, to the nearest multiple of 90 degrees.

    Args:
        matrix: (a, b, u, c, d, v, x, y, w) in row order, as in ISO/IEC 14496-12: a stored point (x, y) is shown at
            (a x + c y, b x + d y), apart from an offset.
    """
    a, b, _, c, d, *_ = matrix
    swaps_sides = abs(b) > abs(a)
    shown_x, shown_y = (c, b) if swaps_sides else (a, d)
    turned = pixels.transpose(1, 2) if swaps_sides else pixels
    return turned.flip([axis for axis, factor in ((1, shown_y), (2, shown_x)) if factor < 0])
