"""Bounding boxes of COCO segmentations: polygons, and run-length encoded masks."""

from typing import Any

import numpy as np

from retinanet.formats.numbers import MAX_NUMBER, is_number

MAX_DIGITS = 7  # of a compressed count, 5 bits each; longer counts mean damaged data


def box_of_segmentation(segmentation: Any) -> list[float] | None:
    """Return the bounding box of a segmentation, (left, top, width, height); None if it is empty.

    Args:
        segmentation: polygons [[x1, y1, x2, y2, ...], ...], a single polygon, or a mask {"size", "counts"}.

    Raises:
        ValueError: it is neither polygons nor a mask.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return box_of_mask(segmentation)
    if not isinstance(segmentation, list):
        raise ValueError("expected polygons or a mask")
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(is_number, polygon)):
            raise ValueError("expected polygons as lists of finite numbers, x and y alternating")
        xs += polygon[0::2]
        ys += polygon[1::2]
    if not xs:
        return None
    return [float(min(xs)), float(min(ys)), float(max(xs) - min(xs)), float(max(ys) - min(ys))]


def box_of_mask(mask: dict[str, Any]) -> list[float] | None:
    """Return the box of a run-length encoded mask as pycocotools computes it; None if the mask is empty.

    Args:
        mask: "size" is [height, width]; "counts" are the lengths of runs of pixels in column order, alternately outside
            and inside the object: a list, or a string in COCO's compressed form.

    Raises:
        ValueError: the mask is damaged.
    """
    counts, size = mask.get("counts"), mask.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < MAX_NUMBER for n in size)):
        raise ValueError("expected a mask with a size, [height, width]")
    runs = _decode_counts(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and 0 <= run < 2**40 for run in runs):
        raise ValueError("expected a mask with counts")
    height, width = size
    if sum(runs) != height * width:
        raise ValueError(f"the run lengths of the mask sum to {sum(runs)}, expected {height} * {width}")
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    first, last = ends[:-1:2], ends[1::2] - 1  # the first and last pixel of each run inside the object
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        return None
    columns = np.concatenate([first // height, last // height])
    # A run that continues in the next column contains the last pixel of one column and the first pixel of the next.
    goes_on = bool((first // height < last // height).any())
    top, bottom = (0, height - 1) if goes_on else (int((first % height).min()), int((last % height).max()))
    left, right = int(columns.min()), int(columns.max())
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def _decode_counts(text: str) -> list[int]:
    """Decode COCO's compressed counts: base 32, lowest digit first, with differences from the third on."""
    counts: list[int] = []
    value = digits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or digits == MAX_DIGITS:
            raise ValueError("the counts of the mask are damaged")
        value |= (code & 0x1F) << (5 * digits)
        digits += 1
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << (5 * digits)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = digits = 0
    if digits:
        raise ValueError("the counts of the mask are truncated")
    return counts
