"""Simulated detectors: the ground truth with random errors."""

import numpy as np
import torch

from retinanet.formats.dataset import Dataset
from retinanet.structures import Detections
from tests.helpers.datasets import dataset_of, image_record

# Sizes differ, so that each frame of resized images is another one.
SIZES = ((480, 640), (640, 480), (333, 500), (600, 800), (427, 640), (512, 512))


def random_dataset(
    rng: np.random.Generator, *, num_images: int = 60, num_classes: int = 5, max_objects: int = 4
) -> Dataset:
    """Images with 1 to `max_objects` objects of 5 to 30 % of the image's sides, anywhere."""
    records = []
    for index in range(num_images):
        height, width = SIZES[rng.integers(len(SIZES))]
        count = rng.integers(1, max_objects + 1)
        sides = rng.uniform(0.05, 0.3, (count, 2)) * (width, height)
        corners = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
        records.append(
            image_record(
                f"{rng.integers(10**6):06d}.jpg",
                height,
                width,
                np.concatenate([corners, corners + sides], axis=1),
                labels=rng.integers(0, num_classes, count),
                image_id=index + 1,
            )
        )
    return dataset_of(records, class_names=tuple(f"class {label}" for label in range(num_classes)))


def detect(
    dataset: Dataset,
    rng: np.random.Generator,
    *,
    recall: float = 0.9,
    box_error: float = 0.05,
    label_error: float = 0.05,
    num_false: float = 2.0,
) -> dict[int, Detections]:
    """Detections with errors: true ones have scores around 0.7, false ones around 0.3.

    Args:
        recall: probability that an object is detected.
        box_error: standard deviation of each corner, as a share of the side of the box.
        label_error: probability of a random label.
        num_false: mean number of false detections at random places in each image.
    """
    num_classes = len(dataset.class_names)
    detections = {}
    for index in range(len(dataset)):
        image = dataset.image(index)
        is_found = rng.random(len(image.boxes)) < recall
        boxes, labels = image.boxes[is_found].astype(np.float64), image.labels[is_found].copy()
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes += rng.normal(0, 1, boxes.shape) * box_error * sides
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        is_wrong = rng.random(len(labels)) < label_error
        labels[is_wrong] = rng.integers(0, num_classes, is_wrong.sum())
        count = rng.poisson(num_false)
        corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * (image.width, image.height)
        detections[index] = sorted_detections(
            np.concatenate([boxes, corners.reshape(-1, 4)]),
            np.concatenate([rng.normal(0.7, 0.1, len(labels)), rng.normal(0.3, 0.1, count)]).clip(0.05, 1),
            np.concatenate([labels, rng.integers(0, num_classes, count)]),
        )
    return detections


def sorted_detections(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Detections:
    """Detections of one image, highest score first."""
    order = np.argsort(-scores, kind="stable")
    return Detections(
        torch.from_numpy(boxes[order]).float(),
        torch.from_numpy(scores[order]).float(),
        torch.from_numpy(labels[order].astype(np.int64)),
    )
