"""Build targets from readable rows, and show assignments as one readable value per anchor."""

import torch

from retinanet.detection.assignment import Assignment
from retinanet.structures import Targets

OBJECT, CROWD, PADDING = "object", "crowd", "padding"


def targets_of(*images) -> Targets:
    """Build targets from images given as lists of (box, kind), padded to the longest list and at least one row."""
    length = max(1, *(len(rows) for rows in images))
    padded = [[*rows, *[((0, 0, 1, 1), PADDING)] * (length - len(rows))] for rows in images]
    return Targets(
        boxes=torch.tensor([[box for box, _ in rows] for rows in padded], dtype=torch.float32),
        labels=torch.zeros(len(images), length, dtype=torch.int64),
        is_object=torch.tensor([[kind == OBJECT for _, kind in rows] for rows in padded]),
        is_crowd=torch.tensor([[kind == CROWD for _, kind in rows] for rows in padded]),
    )


def objects(*boxes) -> Targets:
    """Build the targets of one image from the boxes of its objects."""
    return targets_of([(box, OBJECT) for box in boxes])


def without_rows(num_images: int) -> Targets:
    """Build targets without any row, not even padding."""
    none = torch.zeros(num_images, 0, dtype=torch.bool)
    return Targets(torch.zeros(num_images, 0, 4), none.long(), none, none)


def per_anchor(assignment: Assignment, image: int = 0) -> list[int | str]:
    """List for each anchor the row it is assigned to, "negative" or "ignored"."""
    assert not (assignment.positive & assignment.negative).any()
    gt_index, positive, negative = assignment.gt_index[image], assignment.positive[image], assignment.negative[image]
    rows = zip(gt_index.tolist(), positive.tolist(), negative.tolist(), strict=True)
    return [index if is_pos else "negative" if is_neg else "ignored" for index, is_pos, is_neg in rows]
