"""Check annotated boxes: find those that training can use, and warn about the others."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from retinanet.formats.annotations import Annotations
from retinanet.formats.findings import MAX_EXAMPLES, Finding, shortened

OUTSIDE_TOLERANCE = 1.0  # pixels; annotation tools may round outwards by this much

# Indices into PROBLEMS and KINDS; a box with several problems gets the first.
OK, INVERTED, NO_AREA, OUTSIDE, PARTLY_OUTSIDE = range(5)
PROBLEMS = ("", "inverted, dropped", "without area, dropped", "outside the image, dropped",
            "partly outside the image, clipped")  # fmt: skip
KINDS = ("", "box_inverted", "box_without_area", "box_outside", "box_partly_outside")


class CheckedBoxes(NamedTuple):
    """Boxes clipped to their images, and the problem found with each."""

    boxes_xywh: np.ndarray  # (M, 4) float64, meaningful where `is_usable`
    problem: np.ndarray  # (M,) indices into PROBLEMS

    @property
    def is_usable(self) -> np.ndarray:
        """Mask of the boxes to keep: (M,) bool."""
        return (self.problem == OK) | (self.problem == PARTLY_OUTSIDE)

    def areas(self, areas: np.ndarray | None = None) -> np.ndarray:
        """Return object areas, (M,) float64: as given, but at most the area of the box where it was clipped.

        Args:
            areas: (M,) areas in the file, NaN where unknown; None if all are unknown.
        """
        of_boxes = self.boxes_xywh[:, 2] * self.boxes_xywh[:, 3]
        if areas is None:
            return of_boxes
        # The area of an object inside the image is unknown, but cannot exceed that of the clipped box.
        use_box = np.isnan(areas) | ((self.problem == PARTLY_OUTSIDE) & (areas > of_boxes))
        return np.where(use_box, of_boxes, areas)


def check_boxes(boxes_xywh: np.ndarray, sizes: np.ndarray) -> CheckedBoxes:
    """Classify boxes with problems, and clip those that are partly outside their image.

    Args:
        boxes_xywh: (M, 4) float64: left, top, width, height; all finite.
        sizes: (M, 2), height and width of the image of each box.
    """
    x, y, w, h = boxes_xywh.T
    height, width = sizes.T.astype(np.float64)
    right, bottom = x + w, y + h
    x1, y1, x2, y2 = np.maximum(x, 0.0), np.maximum(y, 0.0), np.minimum(right, width), np.minimum(bottom, height)
    overhang = np.max([x1 - x, y1 - y, right - x2, bottom - y2], axis=0) if len(x) else x
    # Training uses float32, in which the corners of an extremely narrow box coincide.
    is_narrow = (x2.astype(np.float32) <= x1.astype(np.float32)) | (y2.astype(np.float32) <= y1.astype(np.float32))
    problem = np.select(
        [(w < 0) | (h < 0), (w == 0) | (h == 0), (x2 <= x1) | (y2 <= y1), is_narrow, overhang > OUTSIDE_TOLERANCE],
        [INVERTED, NO_AREA, OUTSIDE, NO_AREA, PARTLY_OUTSIDE],
        default=OK,
    )
    clipped = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
    return CheckedBoxes(np.where((problem == PARTLY_OUTSIDE)[:, None], clipped, boxes_xywh), problem)


class BoxProblems:
    """Collect box problems of several sources into one finding per kind: an error if `strict`, otherwise a warning."""

    def __init__(self, *, strict: bool):
        self.strict = strict
        self._counts: Counter[int] = Counter()
        self._examples: dict[int, list[str]] = {}

    def add(
        self, checked: CheckedBoxes, read: Annotations, *, rows: np.ndarray, boxes_xywh: np.ndarray, sizes: np.ndarray
    ) -> None:
        """Record the problems found in one source.

        Args:
            rows: (M,) indices of the checked boxes in the source.
            boxes_xywh: (M, 4), the boxes in pixels.
            sizes: (M, 2), height and width of the image of each box.
        """
        for kind in np.unique(checked.problem[checked.problem != OK]).tolist():
            positions = np.flatnonzero(checked.problem == kind)
            self._counts[kind] += len(positions)
            examples = self._examples.setdefault(kind, [])
            for position in positions[: MAX_EXAMPLES - len(examples)].tolist():
                row = rows[position]
                height, width = sizes[position].tolist()
                examples.append(
                    f"{read.entry} {read.entry_numbers[row]} of {read.file_names[read.image_index[row]]} "
                    f"({width}x{height}), class {read.category_names[read.category_index[row]]!r}: "
                    f"{boxes_xywh[position].tolist()}"
                )

    def findings(self, source: str) -> list[Finding]:
        """One finding per kind of problem."""
        return [self._finding(kind, source) for kind in sorted(self._counts)]

    def _finding(self, kind: int, source: str) -> Finding:
        count = self._counts[kind]
        examples = shortened(self._examples[kind], count)
        if not self.strict:
            return Finding("warning", KINDS[kind], source, f"{count} box(es) {PROBLEMS[kind]}", examples)
        message = (
            f"{count} box(es) {PROBLEMS[kind].partition(',')[0]}, expected boxes with positive width and height inside "
            "their image; correct the file, or set data.strict: false to drop or clip such boxes"
        )
        return Finding("error", KINDS[kind], source, message, examples)
