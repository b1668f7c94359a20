"""The assignment rule as a loop over anchors and objects."""

import numpy as np

from retinanet.detection.assignment import NEAREST_CELLS
from tests.helpers.assignment import CROWD, OBJECT


def overlap(box, anchor):
    """IoU and share of the anchor, each rounded to float32 once: the areas are exact."""
    width = min(box[2], anchor[2]) - max(box[0], anchor[0])
    height = min(box[3], anchor[3]) - max(box[1], anchor[1])
    intersection = max(0.0, width) * max(0.0, height)
    box_area = (box[2] - box[0]) * (box[3] - box[1])
    anchor_area = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
    iou = np.float32(intersection / (box_area + anchor_area - intersection))
    return intersection and iou, np.float32(intersection / anchor_area)


def match_unmatched_by_loop(levels, rows, result):
    """Give one anchor to each object that has none: the rule of `match_every_object`, object by object."""
    anchors = [anchor for level in levels for anchor in level.view(-1, 4).tolist()]
    objects_of_image = [row for row, (_, kind) in enumerate(rows) if kind == OBJECT]
    iou = {row: [overlap(rows[row][0], anchor)[0] for anchor in anchors] for row in objects_of_image}
    own = {row: [i for i, match in enumerate(result) if match == row] for row in objects_of_image}
    kept = {i for row, mine in own.items() for i in mine if iou[row][i] == max(iou[row][j] for j in mine)}
    result = list(result)
    for row in objects_of_image:
        near, first = [], 0
        x, y = (rows[row][0][0] + rows[row][0][2]) / 2, (rows[row][0][1] + rows[row][0][3]) / 2
        for level in levels:
            boxes = level[:, :, 0].reshape(-1, 4).tolist()
            distance = [((b[0] + b[2]) / 2 - x) ** 2 + ((b[1] + b[3]) / 2 - y) ** 2 for b in boxes]
            for cell in sorted(range(len(boxes)), key=lambda i, far=distance: (far[i], i))[:NEAREST_CELLS]:
                near += range(first + cell * level.shape[2], first + (cell + 1) * level.shape[2])
            first += level[..., 0].numel()
        free = [i for i in near if i not in kept and iou[row][i] > 0]
        if not own[row] and free:
            taken = max(free, key=lambda i: iou[row][i])  # on a tie, the first
            kept.add(taken)
            result[taken] = row
    return result


def assign_by_loop(anchors, rows, fg_iou, bg_iou, low_quality_matches, ignore_ioa):
    """The rule for one image, anchor by anchor; see `per_anchor`."""
    iou = {r: [overlap(box, a)[0] for a in anchors] for r, (box, kind) in enumerate(rows) if kind == OBJECT}
    crowds = [box for box, kind in rows if kind == CROWD]
    result = []
    for i, anchor in enumerate(anchors):
        best = max(iou, key=lambda r: iou[r][i], default=None)  # on a tie, the first
        best_iou = 0 if best is None else iou[best][i]
        closest = low_quality_matches and any(0 < row[i] == max(row) for row in iou.values())
        in_crowd = ignore_ioa > 0 and any(overlap(box, anchor)[1] >= np.float32(ignore_ioa) for box in crowds)
        if best_iou >= np.float32(fg_iou) or closest:
            result.append(best)
        else:
            result.append("negative" if best_iou < np.float32(bg_iou) and not in_crowd else "ignored")
    return result
