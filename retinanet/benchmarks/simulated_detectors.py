"""Simulated detectors whose AP on all possible images is known, to check intervals and tests.

Images differ in their number of objects and in difficulty, and so do objects. Whether a detector finds an object, its
score and the fit of its box depend on a latent quality: the detector's skill, minus the difficulty of the image and the
object, plus noise. It also makes false detections, more of them in difficult images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from retinanet.formats.dataset import Dataset, start_of_each
from retinanet.structures import Detections

SIDE = 64  # side of each object, pixels
SPACING = 100  # between objects, which never overlap
PER_ROW = 10
FREQUENCIES = (0.7, 0.25, 0.05)  # of the classes
MEAN_OBJECTS, MEAN_FALSE = 4, 2  # per image
LEAST_QUALITY = -0.6  # objects below it are not found


class Detector(NamedTuple):
    """A simulated detector."""

    skill: float = 0.0
    score_power: float = 1.0  # scores are raised to it: another scale, with the same order


def simulate(
    random: np.random.Generator, num_images: int, detectors: Sequence[Detector] = (Detector(),)
) -> tuple[Dataset, list[dict[int, Detections]]]:
    """Draw images, and the detections of each detector on them."""
    counts = random.poisson(MEAN_OBJECTS * random.gamma(2, 0.5, num_images))
    dataset = _dataset(random, counts)
    images = np.repeat(np.arange(num_images), counts)
    difficulty = random.normal(0, 0.8, num_images)
    common = random.normal(0, 0.7, len(images)) - difficulty[images]
    return dataset, [_detect(random, dataset, images, difficulty, common, detector) for detector in detectors]


def _dataset(random: np.random.Generator, counts: np.ndarray) -> Dataset:
    start = start_of_each(counts)
    number = np.arange(start[-1]) - np.repeat(start[:-1], counts)  # within the image
    sides = np.full(len(number), float(SIDE))
    boxes_xywh = np.column_stack([SPACING * (number % PER_ROW), SPACING * (number // PER_ROW), sides, sides])
    return Dataset(
        paths=tuple(f"{index}.jpg" for index in range(len(counts))),
        image_ids=tuple(range(1, len(counts) + 1)),
        sizes=np.full((len(counts), 2), SPACING * PER_ROW),
        box_start=start,
        boxes_xywh=boxes_xywh,
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        labels=random.choice(len(FREQUENCIES), len(number), p=FREQUENCIES),
        is_crowd=np.zeros(len(number), dtype=bool),
        class_names=("frequent", "common", "rare"),
        category_ids=(1, 2, 3),
    )


def _detect(
    random: np.random.Generator,
    dataset: Dataset,
    images: np.ndarray,
    difficulty: np.ndarray,
    common: np.ndarray,
    detector: Detector,
) -> dict[int, Detections]:
    quality = detector.skill + common + random.normal(0, 0.7, len(images))
    found = quality > LEAST_QUALITY
    boxes = dataset.boxes_xywh[found]
    # A box that is narrower by a factor has that factor as its IoU.
    boxes[:, 2] *= np.clip(random.normal(0.8 + 0.04 * quality[found], 0.1), 0.3, 1)
    false_images = np.repeat(np.arange(len(dataset)), random.poisson(MEAN_FALSE * np.exp(0.3 * difficulty)))
    elsewhere = np.tile([2.0 * SPACING * PER_ROW, 0, SIDE, SIDE], (len(false_images), 1))
    logits = [
        random.normal(quality[found], 0.5),
        random.normal(-1, 1, len(false_images)),
    ]
    false_labels = random.choice(len(FREQUENCIES), len(false_images), p=FREQUENCIES)
    all_images = np.concatenate([images[found], false_images])
    corners = np.concatenate([boxes, elsewhere])
    corners[:, 2:] += corners[:, :2]
    scores = (1 / (1 + np.exp(-np.concatenate(logits)))) ** detector.score_power
    order = np.argsort(all_images, kind="stable")
    start = start_of_each(np.bincount(all_images, minlength=len(dataset))).tolist()
    columns = (
        corners.astype(np.float32),
        scores.astype(np.float32),
        np.concatenate([dataset.labels[found], false_labels]),
    )
    tensors = [torch.from_numpy(column[order]) for column in columns]
    return {
        index: Detections(*(tensor[start[index] : start[index + 1]] for tensor in tensors))
        for index in range(len(dataset))
    }
