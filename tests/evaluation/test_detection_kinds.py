"""The kind of every detection, against hand-constructed cases and hotcoco's counts."""

import numpy as np
import pytest
import torch

from retinanet.evaluation.coco import coco_evaluation
from retinanet.evaluation.detection_kinds import KINDS, detection_kinds, found_scores, matched_boxes
from retinanet.evaluation.matches import match_detections
from retinanet.structures import Detections
from tests.helpers.datasets import dataset_of, image_record

HOTCOCO = {"classification": "Cls", "localisation": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg"}


def detections_of(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of corners, score and label."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Detections(table[:, :4].float(), table[:, 4].float(), table[:, 5].long())


def kinds_by_score(dataset, detections) -> list[str]:
    """The kind of each detection, highest score first."""
    matches = match_detections(dataset, detections)
    kinds = detection_kinds(dataset, matches, matched_boxes(matches, detections))
    return [KINDS[kind] for kind in kinds[np.argsort(-matches.scores)]]


def test_each_kind():
    boxes = [(0, 0, 10, 10), (50, 0, 60, 10), (0, 50, 40, 90)]
    dataset = dataset_of(
        [image_record(boxes=boxes, height=100, width=100, labels=[0, 1, 0], is_crowd=[False, False, True])],
        class_names=("cat", "dog"),
    )
    found = detections_of(
        (0, 0, 10, 9, 0.9, 0),  # IoU 0.9
        (0, 0, 10, 8, 0.8, 0),  # IoU 0.8 with an object that is already matched
        (0, 0, 10, 3, 0.7, 0),  # IoU 0.3 with an object of its class
        (50, 0, 60, 9, 0.6, 0),  # IoU 0.9 with an object of the other class
        (50, 0, 60, 3, 0.5, 0),  # IoU 0.3 with an object of the other class
        (80, 80, 90, 90, 0.4, 0),  # no IoU
        (0, 50, 40, 80, 0.3, 0),  # in the crowd region
    )
    assert kinds_by_score(dataset, {0: found}) == [
        "correct", "duplicate", "localisation", "classification", "both", "background", "ignored",
    ]  # fmt: skip
    matches = match_detections(dataset, {0: found})
    assert found_scores(matches).tolist() == pytest.approx([0.9, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_those_of_hotcoco(seed):
    random = np.random.default_rng(seed)
    records, detections = [], {}
    for index in range(30):
        corners = random.uniform(0, 60, (random.integers(0, 6), 4))
        corners[:, 2:] = corners[:, :2] + random.uniform(10, 40, (len(corners), 2))
        labels = random.integers(0, 3, len(corners))
        records.append(
            image_record(boxes=corners.tolist(), height=100, width=100, labels=labels.tolist(), image_id=index + 1)
        )
        moved = np.repeat(corners, 4, axis=0) + random.normal(0, 6, (4 * len(corners), 4))
        moved = np.concatenate([moved, random.uniform(0, 50, (3, 4)) + np.array([0, 0, 50, 50])])
        labels = np.concatenate([np.repeat(labels, 4), [0, 1, 2]])
        changed = np.where(random.random(len(labels)) < 0.3, random.integers(0, 3, len(labels)), labels)
        rows = np.column_stack([moved, random.random(len(moved)), changed])
        detections[index] = detections_of(*map(tuple, rows[np.argsort(-rows[:, 4])]))
    dataset = dataset_of(records, class_names=("a", "b", "c"))
    kinds = kinds_by_score(dataset, detections)
    counts = coco_evaluation(dataset, detections).tide_errors(pos_thr=0.5, bg_thr=0.1)["counts"]
    assert {kind: kinds.count(kind) for kind in HOTCOCO} == {kind: counts[key] for kind, key in HOTCOCO.items()}
    assert min(kinds.count(kind) for kind in ("correct", *HOTCOCO)) > 0


def test_without_detections_or_objects():
    dataset = dataset_of([image_record(boxes=[]), image_record(image_id=2)])
    assert kinds_by_score(dataset, {}) == []
    assert kinds_by_score(dataset, {0: detections_of((0, 0, 5, 5, 0.5, 0))}) == ["background"]
