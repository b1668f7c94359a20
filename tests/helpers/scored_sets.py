"""Small datasets with detections, for operating points and curves."""

import numpy as np
from hypothesis import strategies as st

from retinanet.evaluation.matches import match_detections
from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections
from tests.helpers.coco_scores import found
from tests.helpers.datasets import dataset_of, image_record


def two_images(*, num_classes: int = 1) -> tuple[Dataset, dict[int, Detections]]:
    """Three objects of label 0 in two images, and five detections, of which two match."""
    images = [
        image_record(boxes=[(10, 10, 50, 50), (60, 60, 90, 90)], height=100, width=100, image_id=1),
        image_record(boxes=[(10, 10, 50, 50)], height=100, width=100, image_id=2),
    ]
    dataset = dataset_of(images, class_names=tuple(f"class {label}" for label in range(num_classes)))
    detections = {
        0: found([10, 10, 40, 40], [0, 60, 20, 20], scores=[0.875, 0.5]),
        1: found([60, 60, 20, 20], [10, 10, 40, 30], [0, 0, 9, 9], scores=[0.75, 0.5, 0.25]),
    }
    return dataset, detections


def counts_above(dataset: Dataset, detections: dict[int, Detections], label: int, threshold: float) -> tuple[int, int]:
    """True and false positives of a class at IoU 0.5 among the detections with a score above a threshold."""
    kept = {index: of_image[of_image.scores > threshold] for index, of_image in detections.items()}
    matches = match_detections(dataset, kept)
    counts = (matches.labels == label) & ~matches.is_ignored[0]
    return int(matches.is_true_positive[0, counts].sum()), int((~matches.is_true_positive[0, counts]).sum())


@st.composite
def scored_sets(draw: st.DrawFn) -> tuple[Dataset, dict[int, Detections]]:
    """Up to three images of two classes, with objects, crowds and detections on a grid: many match, many tie."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, detections = [], {}
    for index in range(draw(st.integers(1, 3))):
        num_objects = draw(st.integers(0, 4))
        corners = 20 * random.integers(0, 4, (num_objects, 2))
        images.append(
            image_record(
                boxes=np.concatenate([corners, corners + 20], axis=1),
                labels=random.integers(0, 2, num_objects),
                is_crowd=random.random(num_objects) < 0.15,
                height=100,
                width=100,
                image_id=index + 1,
            )
        )
        num_detections = draw(st.integers(0, 8))
        boxes = np.concatenate(
            [20 * random.integers(0, 4, (num_detections, 2)) + random.integers(0, 8, (num_detections, 1)),
             np.full((num_detections, 2), 20)], axis=1,
        )  # fmt: skip
        scores = np.sort(random.integers(1, 9, num_detections))[::-1] / 8
        labels = random.integers(0, 2, num_detections)
        detections[index] = found(*boxes.tolist(), scores=scores.tolist(), labels=labels.tolist())
    return dataset_of(images, class_names=("a", "b")), detections
