"""Frames turned by their display matrix."""

import pytest
import torch

from retinanet.formats.videos.display import displayed

PIXELS = torch.tensor([[[1, 2, 3], [4, 5, 6]]])  # (1, 2, 3)


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "expected"),
    [
        (1, 0, 0, 1, [[1, 2, 3], [4, 5, 6]]),
        (0, 1, -1, 0, [[4, 1], [5, 2], [6, 3]]),  # clockwise: the left column becomes the top row
        (-1, 0, 0, -1, [[6, 5, 4], [3, 2, 1]]),
        (0, -1, 1, 0, [[3, 6], [2, 5], [1, 4]]),
        (-1, 0, 0, 1, [[3, 2, 1], [6, 5, 4]]),
        (1, 0, 0, -1, [[4, 5, 6], [1, 2, 3]]),
        (0, 1, 1, 0, [[1, 4], [2, 5], [3, 6]]),  # mirrored at the diagonal
        (0.1, 1, -1, 0.1, [[4, 1], [5, 2], [6, 3]]),  # nearly clockwise
    ],
)
def test_hand_worked_matrices(a, b, c, d, expected):
    matrix = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0, 16384)]
    assert displayed(PIXELS, matrix).tolist() == [expected]
