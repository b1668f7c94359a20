"""TIDE errors by their definitions in the paper (Bolya et al. 2020) and in tidecv, without optimisations."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections


class Found(NamedTuple):
    """A detection."""

    image: int
    box: np.ndarray
    label: int
    score: float


class Object(NamedTuple):
    """An object that counts."""

    image: int
    box: np.ndarray
    label: int


class Tide(NamedTuple):
    """AP50, errors by tidecv's short names, and the increase in AP50 if they are fixed."""

    ap50: float
    counts: dict[str, int]
    delta_ap: dict[str, float]


def iou(box: np.ndarray, other: np.ndarray) -> float:
    """IoU of two boxes."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    if (sides <= 0).any():
        return 0.0
    area = float(sides.prod())
    return area / float((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - area)


def average_precision(outcomes: list[tuple[float, bool]], num_objects: int) -> float:
    """Interpolated AP at 101 recalls, from the score of each detection and whether it is right."""
    right = np.array([is_right for _, is_right in sorted(outcomes, key=lambda outcome: -outcome[0])], dtype=bool)
    if not num_objects:
        return 0.0
    recall, precision = np.cumsum(right) / num_objects, np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]))


def tide_by_definition(dataset: Dataset, detections: Mapping[int, Detections]) -> Tide:
    """TIDE's analysis of detections with distinct scores, on a dataset without crowds."""
    found = sorted(
        (
            Found(index, box.astype(np.float64), int(label), float(score))
            for index, one in detections.items()
            for box, label, score in zip(one.boxes.numpy(), one.labels.numpy(), one.scores.numpy(), strict=True)
        ),
        key=lambda one: -one.score,
    )
    objects = [
        Object(index, box.astype(np.float64), int(label))
        for index in range(len(dataset))
        for box, label in zip(dataset.image(index).boxes, dataset.image(index).labels, strict=True)
    ]
    ious = np.array(
        [[iou(one.box, thing.box) if one.image == thing.image else 0.0 for thing in objects] for one in found]
    ).reshape(len(found), len(objects))
    is_same = np.array([[one.label == thing.label for thing in objects] for one in found], bool).reshape(ious.shape)

    match: dict[int, int] = {}  # object by detection
    for d in range(len(found)):
        free = [m for m in range(len(objects)) if is_same[d, m] and ious[d, m] >= 0.5 and m not in match.values()]
        if free:
            match[d] = max(free, key=lambda m: ious[d, m])
    kinds: dict[int, str] = {}
    target: dict[int, int] = {}  # the object that a corrected detection would match
    for d in set(range(len(found))) - set(match):
        same, other = ious[d] * is_same[d], ious[d] * ~is_same[d]
        if 0.1 <= same.max(initial=0) <= 0.5:
            kinds[d], target[d] = "Loc", int(same.argmax())
        elif other.max(initial=0) >= 0.5:
            kinds[d], target[d] = "Cls", int(other.argmax())
        elif any(same[m] >= 0.5 for m in match.values()):
            kinds[d] = "Dupe"
        elif ious[d].max(initial=0) <= 0.1:
            kinds[d] = "Bkg"
        else:
            kinds[d] = "Both"
    # Of all errors that point at an object, whatever their kind, the one with the highest score can match it.
    first = {m: min(d for d in target if target[d] == m) for m in target.values()}
    missed = set(range(len(objects))) - set(match.values())
    lost = missed - set(target.values())

    def mean_ap(fixed: str | None = None) -> float:
        outcomes: dict[int, list[tuple[float, bool]]] = {label: [] for label in range(len(dataset.class_names))}
        for d, one in enumerate(found):
            if d in match:
                outcomes[one.label].append((one.score, True))
            elif kinds[d] != fixed:
                outcomes[one.label].append((one.score, False))
            elif d in target and target[d] in missed and first[target[d]] == d:
                outcomes[objects[target[d]].label].append((one.score, True))
        counts = [sum(thing.label == label for thing in objects) for label in outcomes]
        gone = [sum(objects[m].label == label for m in lost) for label in outcomes] if fixed == "Miss" else counts
        remaining = [count - less if fixed == "Miss" else count for count, less in zip(counts, gone, strict=True)]
        aps = [average_precision(outcomes[k], remaining[k]) for k in outcomes if counts[k]]
        return float(np.mean(aps))

    names = ("Cls", "Loc", "Both", "Dupe", "Bkg")
    counts = {name: sum(kind == name for kind in kinds.values()) for name in names} | {"Miss": len(lost)}
    return Tide(mean_ap(), counts, {name: mean_ap(name) - mean_ap() for name in (*names, "Miss")})
