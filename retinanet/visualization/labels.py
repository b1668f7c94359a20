"""Place labels next to boxes, inside the image and, where there is room, without overlap."""

from collections.abc import Iterator, Sequence

import numpy as np

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, exclusive of x2 and y2


def place_labels(
    boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> list[Rectangle]:
    """Choose a place for the label of each box; earlier boxes choose first.

    A label goes above its box, inside it, below it, or at its right edge, whichever is in the image and covers no
    earlier label. If all are taken, it goes to the nearest free place above or below, or, in an image full of labels,
    to the place where it covers least.

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
        sizes: width and height of each label.
        image_size: height and width.
    """
    placed = np.zeros((len(boxes), 4), dtype=np.int64)
    for number, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        least, best = None, None
        for candidate in _candidates(box, size, image_size):
            covered = _covered_area(candidate, placed[:number])
            if least is None or covered < least:
                least, best = covered, candidate
            if covered == 0:
                break
        assert best is not None
        placed[number] = best
    return [(left, top, right, bottom) for left, top, right, bottom in placed.tolist()]


def _candidates(box: Sequence[float], size: tuple[int, int], image_size: tuple[int, int]) -> Iterator[Rectangle]:
    """Yield places for a label, best first; all are inside the image if the label is not larger than it."""
    x1, y1, x2, y2 = (round(side) for side in box)
    width, height = size
    at_left, at_right = x1, x2 + 1 - width
    for left, top in (
        *((at_left, y1 - height), (at_left, y1), (at_left, y2 + 1), (at_left, y2 + 1 - height)),
        *((at_right, y1 - height), (at_right, y1), (at_right, y2 + 1), (at_right, y2 + 1 - height)),
    ):
        if 0 <= top <= image_size[0] - height:
            yield _inside(left, top, size, image_size)
    for line in range(image_size[0] // height + 1):
        for top in (y1 - (line + 1) * height, y1 + line * height):
            if 0 <= top <= image_size[0] - height:
                yield _inside(at_left, top, size, image_size)
    yield _inside(at_left, y1 - height, size, image_size)


def _inside(left: int, top: int, size: tuple[int, int], image_size: tuple[int, int]) -> Rectangle:
    """Move a label into the image."""
    width, height = size
    left = max(0, min(left, image_size[1] - width))
    top = max(0, min(top, image_size[0] - height))
    return left, top, left + width, top + height


def _covered_area(label: Rectangle, others: np.ndarray) -> int:
    """The area of a label that lies on others (N, 4); where several overlap, it counts several times."""
    left, top, right, bottom = label
    widths = np.minimum(others[:, 2], right) - np.maximum(others[:, 0], left)
    heights = np.minimum(others[:, 3], bottom) - np.maximum(others[:, 1], top)
    return int((widths.clip(0) * heights.clip(0)).sum())
